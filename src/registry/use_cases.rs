//! What the use cases are made of, put together once and shared by every handle.

use std::sync::Arc;

use crate::copies::Copies;
use crate::core::Core;
use crate::lost::LostCopies;
use crate::orphans::Orphans;
use crate::source::Sources;
use crate::upload::Uploads;

pub(crate) struct UseCases {
    pub(crate) core: Arc<Core>,
    pub(crate) copies: Copies,
    pub(crate) sources: Sources,
    pub(crate) lost: Arc<LostCopies>,
    pub(crate) orphans: Orphans,
    pub(crate) uploads: Uploads,
}

impl UseCases {
    pub(crate) fn new(core: Core) -> UseCases {
        let core = Arc::new(core);
        let copies = Copies::new(core.clone());
        let lost = Arc::new(LostCopies::new(core.clone()));
        UseCases {
            sources: Sources::new(core.clone(), lost.clone()),
            lost,
            orphans: Orphans::new(core.clone()),
            uploads: Uploads::new(core.clone(), copies.clone()),
            copies,
            core,
        }
    }
}

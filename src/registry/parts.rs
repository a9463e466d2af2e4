//! The rooms of the use cases, put together once and shared by every handle.

use std::sync::Arc;

use crate::copies::Copies;
use crate::core::Core;
use crate::lost::LostCopies;
use crate::source::Sources;
use crate::upload::Uploads;

pub(crate) struct Parts {
    pub(crate) core: Arc<Core>,
    pub(crate) copies: Copies,
    pub(crate) sources: Sources,
    pub(crate) lost: Arc<LostCopies>,
    pub(crate) uploads: Uploads,
}

impl Parts {
    pub(crate) fn new(core: Core) -> Parts {
        let core = Arc::new(core);
        let copies = Copies::new(core.clone());
        let lost = Arc::new(LostCopies::new(core.clone()));
        Parts {
            sources: Sources::new(core.clone(), lost.clone()),
            lost,
            uploads: Uploads::new(core.clone(), copies.clone()),
            copies,
            core,
        }
    }
}

//! A leader's heartbeats: how often they go out, apart from how long an answer may take.
//!
//! openraft sends one whenever `heartbeat_interval` has passed and waits for its answer for the same time. With less
//! than a round trip no answer ever counts: the leader takes itself for cut off and stops. So that interval is how
//! long an answer may take, and the beat comes from here. One that falls due while the last is unanswered goes out
//! with the answer: over a long way there is one in each round trip.

use std::sync::Arc;

use openraft::async_runtime::AsyncRuntime;

use crate::core::Core;

/// Runs until the node stops.
pub(crate) async fn beat<R: AsyncRuntime>(core: Arc<Core<R>>) {
    let every = core.settings.profile.beat();
    loop {
        R::sleep(every).await;
        if !core.runs() {
            return;
        }
        if core.leading().is_some() && core.raft.trigger().heartbeat().await.is_err() {
            return;
        }
    }
}

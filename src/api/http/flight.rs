//! A request in flight, which keeps its connection's place and shows in its traffic.

use std::sync::Arc;

use tokio::sync::watch;

use crate::places::Place;
use crate::traffic::{Meter, Traffic};

/// One request in flight: from its head to the end of its answer's body.
pub(crate) struct Flight {
    traffic: watch::Sender<Traffic>,
    place: Place,
    pub(crate) meter: Arc<Meter>,
}

impl Flight {
    pub(crate) fn begin(traffic: &watch::Sender<Traffic>, place: Place, meter: Arc<Meter>) -> Flight {
        traffic.send_modify(Traffic::begin);
        Flight { traffic: traffic.clone(), place, meter }
    }

    /// One that the traffic counts already.
    pub(crate) fn begun(traffic: &watch::Sender<Traffic>, place: Place) -> Flight {
        Flight { traffic: traffic.clone(), place, meter: Arc::default() }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.traffic.send_modify(Traffic::end);
        self.place.is_quiet();
    }
}

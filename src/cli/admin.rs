//! The client of a node's administration socket.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawhub_wire::admin::admin_client::AdminClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::Failure;

/// How long a command may take: a join waits for elections at both ends.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest path that a Unix socket address holds on Linux, without its final zero.
const MAX_SOCKET_PATH: usize = 107;

/// Connects to the socket at `path`.
///
/// # Errors
/// [`Failure`] with a hint if nothing listens there.
pub(crate) async fn connect(path: &Path) -> Result<AdminClient<Channel>, Failure> {
    let hint = |e: &dyn std::fmt::Display, hint: &str| {
        Failure::unavailable(format!("cannot reach a node at {}: {e}; {hint}", path.display()))
    };
    // Tried by hand first: the transport's own error would not say what went wrong.
    open(path).await.map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => hint(&e, "only the node's own user, and root, may administer it"),
        _ => hint(&e, "is it running?"),
    })?;
    let owned = PathBuf::from(path);
    let connector = tower::service_fn(move |_| {
        let path = owned.clone();
        async move { open(&path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://admin.sock")
        .timeout(PATIENCE)
        .connect_with_connector(connector)
        .await
        .map_err(|e| hint(&e, "is it running?"))?;
    Ok(AdminClient::new(channel))
}

async fn open(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixStream::connect(path).await;
    }
    // Reached through its open folder, the name is short however deep the folder lies.
    let folder = File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name)).await
}

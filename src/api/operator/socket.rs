//! The socket itself: a file in the data directory, removed when the node stops.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clawhub_wire::admin::admin_server::AdminServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::NodeHandle;
use crate::service::Operator;

/// The longest path that a Unix socket address holds on Linux, without its final zero.
const MAX_SOCKET_PATH: usize = 107;
/// The longest request, bytes.
const MAX_REQUEST: usize = 64 << 10;
/// Requests under way at once.
const REQUESTS: usize = 16;

/// A listening socket. Removed when dropped.
pub struct AdminSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens at `path`, 0600, in place of what an earlier process left there. The caller holds the data
    /// directory's lock, so nobody else listens.
    ///
    /// # Errors
    /// If the file system or the socket refuses.
    pub fn bind(path: &Path) -> io::Result<AdminSocket> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => (),
        }
        // Nobody but the node's user gets into the folder (0700), so there is no moment in which the
        // socket is open to others.
        let listener = listen(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(AdminSocket { listener: Some(listener), path: path.into() })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Left behind, it is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixListener::bind(path);
    }
    // Reached through its open folder, the name is short however deep the folder lies.
    let folder = File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    UnixListener::bind(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}

/// Serves operators for as long as it is polled.
///
/// # Errors
/// Why the socket failed.
pub async fn serve(mut socket: AdminSocket, node: NodeHandle) -> Result<(), tonic::transport::Error> {
    let Some(listener) = socket.listener.take() else { return Ok(()) };
    let service = AdminServer::new(Operator::new(node)).max_decoding_message_size(MAX_REQUEST);
    let server = Server::builder().concurrency_limit_per_connection(REQUESTS).add_service(service);
    server.serve_with_incoming(UnixListenerStream::new(listener)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_replaces_a_stale_one_and_fits_any_folder() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        for folder in [temp.path(), &deep] {
            let path = folder.join("admin.sock");
            std::fs::write(&path, "stale").unwrap();
            let socket = AdminSocket::bind(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            drop(socket);
            assert!(!path.exists());
        }
    }
}

//! The programs that ClawHub is compared with, each with a port, configuration and folder of its own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use clawhub_testkit::ports::free_port;
use clawhub_testkit::process::Process;
use clawhub_testkit::{Registry, until};

/// A running server; it stops when it is dropped.
pub(crate) struct Server {
    process: Process,
    address: String,
}

impl Server {
    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// An OCI client of it.
    pub(crate) fn registry(&self) -> Registry {
        Registry::new(&self.address)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

async fn start(command: &mut Command, log: &Path, address: String, path: &str) -> Result<Server> {
    let process = Process::spawn(command, log)?;
    let client = Registry::new(&address);
    until("an answer", Duration::from_secs(20), || async {
        Ok(client.get(path).await?.status().is_success().then_some(()))
    })
    .await
    .map_err(|error| error.context(process.log_tail()))?;
    Ok(Server { process, address })
}

/// nginx serving the files of `dir` with `sendfile`: what plain files cost.
pub(crate) async fn nginx(dir: &Path) -> Result<Server> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let home = dir.join("nginx");
    fs::create_dir_all(&home)?;
    let config = format!(
        "daemon off; worker_processes auto; pid {home}/pid; error_log {home}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n\
           client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c;\n\
           uwsgi_temp_path {home}/d; scgi_temp_path {home}/e;\n\
           server {{ listen {address}; root {root}; }} }}\n",
        home = home.display(),
        root = dir.display()
    );
    let file = home.join("nginx.conf");
    fs::write(&file, config)?;
    // Workers of a root process change to another user, who cannot read a private folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let mut command = Command::new("nginx");
    command.arg("-e").arg(home.join("start.log")).arg("-c").arg(&file);
    if !user.is_empty() {
        command.args(["-g", user]);
    }
    command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
    start(&mut command, &home.join("out.log"), address, "/small").await
}

/// Distribution over a folder, access log off.
pub(crate) async fn distribution(dir: &Path) -> Result<Server> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let home = dir.join("distribution");
    fs::create_dir_all(&home)?;
    let config = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: {home}/data}}\n  delete: {{enabled: true}}\n\
         http: {{addr: {address}}}\n",
        home = home.display()
    );
    let file = home.join("config.yml");
    fs::write(&file, config)?;
    let mut command = Command::new("registry");
    command.arg("serve").arg(&file);
    start(&mut command, &home.join("out.log"), address, "/v2/").await
}

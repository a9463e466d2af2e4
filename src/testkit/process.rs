//! Child processes with a log file each, stopped by id and never by name.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, kill_process_group, setrlimit, test_kill_process,
};

/// How long a process that was asked to stop may take before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// A running child, the leader of its own process group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both its outputs going to the file `log`.
    ///
    /// # Errors
    /// If the log cannot be created or the program cannot be started.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {:?}", command.get_program()))?;
        Ok(Process { child, log: log.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output, for error messages.
    pub fn log_tail(&self) -> String {
        tail(&self.log, 30)
    }

    /// The exit status, if it has ended.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                bail!("process {} still runs after {limit:?}", self.pid());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to stop, waits, and kills its whole group if it does not.
    pub fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may have ended in between: nothing is lost then.
            let _ = signal(self.pid(), Signal::TERM);
            if self.wait(GRACE).is_err() {
                let _ = self.child.kill();
            }
        }
        if let Some(group) = pid(self.child.id()) {
            // Whatever it started and left behind; usually nobody.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

fn signal(id: u32, signal: Signal) -> Result<()> {
    let pid = pid(id).context("a process id is above 0")?;
    kill_process(pid, signal).with_context(|| format!("signal {signal:?} to {id}"))
}

/// `kill -9`.
///
/// # Errors
/// If there is no such process.
pub fn kill(id: u32) -> Result<()> {
    signal(id, Signal::KILL)
}

/// Stops a process where it stands, as a long pause of the machine would.
///
/// # Errors
/// If there is no such process.
pub fn pause(id: u32) -> Result<()> {
    signal(id, Signal::STOP)
}

/// Lets a paused process go on.
///
/// # Errors
/// If there is no such process.
pub fn resume(id: u32) -> Result<()> {
    signal(id, Signal::CONT)
}

/// Asks a process to end.
///
/// # Errors
/// If there is no such process.
pub fn terminate(id: u32) -> Result<()> {
    signal(id, Signal::TERM)
}

/// What Ctrl-C does.
///
/// # Errors
/// If there is no such process.
pub fn interrupt(id: u32) -> Result<()> {
    signal(id, Signal::INT)
}

/// Whether a process of this id exists and is no zombie, with all its threads: while one of them has not ended, its
/// files are open and locked.
pub fn alive(id: u32) -> bool {
    let exists = pid(id).is_some_and(|pid| test_kill_process(pid).is_ok());
    let is_zombie = status_line(id, "State:").is_some_and(|state| state.starts_with('Z'));
    let threads = status_line(id, "Threads:").and_then(|count| count.parse::<usize>().ok());
    exists && !(is_zombie && threads.is_none_or(|count| count <= 1))
}

/// The largest resident set that a process has had so far, in bytes (`VmHWM`).
///
/// # Errors
/// If there is no such process.
pub fn peak_memory(id: u32) -> Result<u64> {
    let line = status_line(id, "VmHWM:").with_context(|| format!("VmHWM of process {id}"))?;
    let kib: u64 = line.trim_end_matches("kB").trim().parse().with_context(|| line.clone())?;
    Ok(kib * 1024)
}

fn status_line(id: u32, key: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned())
}

/// Lets this process have as many files and connections as the system allows: the usual 1024 are soon spent.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // What cannot be had shows where it is needed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The last `lines` lines of a text file; empty if it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a tool to its end and answers what it printed.
///
/// # Errors
/// If it is not there or fails, with what it said.
pub fn tool(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts the node of a configuration file.
///
/// # Errors
/// See [`Process::spawn`].
pub fn serve(config: &Path, log: &Path) -> Result<Process> {
    Process::spawn(Command::new(clawhub()?).arg("serve").arg("--config").arg(config), log)
}

/// Where the `clawhub` program under test is: `CLAWHUB_BIN`, or next to the running executable (test
/// executables lie one folder deeper).
///
/// # Errors
/// If there is none, with the command that makes it.
pub fn clawhub() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CLAWHUB_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    here.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("clawhub"))
        .find(|path| path.is_file())
        .context("no clawhub next to this executable; `make build` makes it, CLAWHUB_BIN names another")
}

//! What systemd is to a program: it hands over sockets that outlive it, and is told how it is.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

use super::{Environment, PATIENCE, free_addr};

/// As in the units.
const BACKLOG: i32 = 4096;
const RECEIVE_BUFFER: usize = 4 << 20;
/// A child can be given three descriptors, and moves them to where systemd puts its own. Its own process id is that of
/// the program that it becomes.
const AS_SYSTEMD_DOES: &str = r#"exec 3<&0 4<&1 5<&2 </dev/null >/dev/null 2>"$0"
LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=http:udp:admin exec "$@""#;

/// The sockets of one collector after the other.
pub struct Sockets {
    http: TcpListener,
    udp: UdpSocket,
    admin: TcpListener,
}

impl Sockets {
    /// On free ports.
    pub fn open() -> Self {
        let [http, admin] = [(); 2].map(|()| listen(free_addr()));
        let udp = UdpSocket::bind(free_addr()).expect("a free port");
        // as much as the system lets us
        SockRef::from(&udp).set_recv_buffer_size(RECEIVE_BUFFER).expect("any size is taken");
        Self { http, udp, admin }
    }

    /// Where beacons come in, and datagrams, and where the admin port is.
    pub fn addrs(&self) -> [SocketAddr; 3] {
        let addrs = [self.http.local_addr(), self.udp.local_addr(), self.admin.local_addr()];
        addrs.map(|addr| addr.expect("a bound socket has one"))
    }

    /// The same command, with these and a file for its stderr.
    pub fn hand_over_to(&self, command: &Command, stderr: &Path) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", AS_SYSTEMD_DOES]).arg(stderr).arg(command.get_program()).args(command.get_args());
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let copy =
            |socket: &dyn AsFd| -> OwnedFd { socket.as_fd().try_clone_to_owned().expect("a descriptor is left") };
        shell.stdin(copy(&self.http)).stdout(copy(&self.udp)).stderr(Stdio::from(copy(&self.admin)));
        shell
    }
}

fn listen(addr: SocketAddr) -> TcpListener {
    let listen = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok::<_, std::io::Error>(socket.into())
    };
    listen().expect("a free port")
}

/// Somebody to whom a program says how it is.
pub struct Systemd {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Systemd {
    /// One that listens.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a name in it");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket can be told so");
        Self { socket, folder }
    }

    /// What the program must know of it.
    pub fn environment(&self) -> Environment {
        vec![("NOTIFY_SOCKET", self.folder.path().join("notify").into())]
    }

    /// The next thing that it says.
    pub fn hear(&self) -> String {
        let mut bytes = [0; 4096];
        let len = self.socket.recv(&mut bytes).expect("the program says something");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    /// How many signs of life are heard within this time.
    pub fn heard_within(&self, time: Duration) -> usize {
        let until = Instant::now() + time;
        self.socket.set_nonblocking(true).expect("a socket can be told so");
        let mut heard = 0;
        while Instant::now() < until {
            let mut bytes = [0; 4096];
            match self.socket.recv(&mut bytes) {
                Ok(len) => {
                    assert_eq!(&bytes[..len], b"WATCHDOG=1");
                    heard += 1;
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
        self.socket.set_nonblocking(false).expect("a socket can be told so");
        heard
    }
}

/// A thread of another process that stands still for as long as this lives, while the others go on.
pub struct Stopped {
    tracer: Child,
}

impl Stopped {
    /// The one of this name.
    pub fn thread(name: &str, of: u32) -> Self {
        const TRACER: &str = "
import ctypes, os, sys
ATTACH, DETACH, WALL = 16, 17, 0x40000000
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
thread = int(sys.argv[1])
assert ptrace(ATTACH, thread, None, None) == 0, os.strerror(ctypes.get_errno())
os.waitpid(thread, WALL)
print('stopped', flush=True)
sys.stdin.read()
ptrace(DETACH, thread, None, None)
";
        let threads = fs::read_dir(format!("/proc/{of}/task")).expect("it runs").flatten().map(|entry| entry.path());
        let is_it = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
        let threads: Vec<_> = threads.filter(|path| is_it(path)).collect();
        let [thread] = &threads[..] else { panic!("{threads:?} are called {name}") };
        let mut python = Command::new("python3");
        python.args(["-c", TRACER]).arg(thread.file_name().expect("a number"));
        let mut tracer = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python runs");
        let mut said = String::new();
        BufReader::new(tracer.stdout.take().expect("it is piped")).read_line(&mut said).expect("it says a line");
        assert_eq!(said, "stopped\n");
        Self { tracer }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.tracer.stdin.take());
        let _ = self.tracer.wait();
    }
}

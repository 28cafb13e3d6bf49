//! File systems of their own, small enough to be filled.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};
use tempfile::TempDir;

/// A mounted file system of its own. Dropping it unmounts it.
pub struct Disk {
    /// Where it is mounted.
    pub path: PathBuf,
    _folder: TempDir,
}

impl Disk {
    /// In memory.
    pub fn tmpfs(size: &str) -> Self {
        Self::mount(|_| vec!["-t".into(), "tmpfs".into(), "-o".into(), format!("size={size}"), "tmpfs".into()])
    }

    /// ext4 in a file, on a loop device; none of it is kept for root.
    pub fn ext4(bytes: u64) -> Self {
        Self::mount(|folder| {
            let image = folder.join("image");
            File::create(&image).unwrap().set_len(bytes).unwrap();
            run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
            vec!["-o".into(), "loop".into(), image.to_str().unwrap().into()]
        })
    }

    fn mount(arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts a file system: run the tests as root");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::create_dir(&path).unwrap();
        run(Command::new("mount").args(arguments(folder.path())).arg(&path));
        Self { path, _folder: folder }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // lazily: a test that failed may still have a program on it
        let status = Command::new("umount").arg("--lazy").arg(&self.path).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.path.display());
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file that takes whatever room there is.
pub struct Ballast(PathBuf);

impl Ballast {
    /// None yet.
    pub fn on(disk: &Disk) -> Self {
        Self(disk.path.join("ballast"))
    }

    /// A file of another name.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Grows until the disk is full. Also what becomes free later is taken when this is called again.
    pub fn grow(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        let mut size: u64 = 1 << 30;
        while size >= 1 << 20 {
            let len = file.metadata().unwrap().len();
            if fallocate(&file, FallocateFlags::empty(), len, size).is_err() {
                size /= 2;
            }
        }
        // and the crumbs
        let block = vec![0x5a; 1 << 12];
        while file.write_all(&block).is_ok() {}
    }

    /// Gives all of it back.
    pub fn free(&self) {
        fs::remove_file(&self.0).unwrap();
    }
}

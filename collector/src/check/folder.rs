//! The data folder: whether it can be written, on what disk it is, who uses it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use tallylight_host::disk;
use tallylight_proto::layout;
use tallylight_service::ByteSize;

use super::Finding;
use super::owners::{self, Owner};
use crate::settings::Settings;

const LOCAL: &str = "--data on a local disk with ext4 or XFS";
/// Readahead in KiB up to which a first touch of a mapped page costs the log's supply thread little.
const MOST_READAHEAD: u64 = 1024;
/// Linux' own.
const DEFAULT_READAHEAD: u64 = 128;

/// The collector that runs on this data, if one does and can be seen.
pub(super) fn running(data: &Path) -> Option<Owner> {
    owners::of_lock(&data.join(layout::LOCK))
}

/// Looks at the folder, or at where it would be.
pub(super) fn check(settings: &Settings) -> Vec<Finding> {
    let data = &settings.data;
    let shown = data.display();
    if fs::metadata(data).is_ok_and(|metadata| !metadata.is_dir()) {
        return vec![Finding::problem(
            "data folder",
            format!("--data {shown} is not a folder"),
            "--data with a folder",
        )];
    }
    let Some(there) = nearest(data) else {
        return vec![Finding::problem("data folder", format!("--data {shown} can be nowhere"), "--data with a folder")];
    };
    let mut findings = vec![if there == *data { writable(data) } else { can_be_made(data, &there) }];
    findings.extend(node(data));
    findings.extend(lock(data));
    findings.extend(disk_kind(&there));
    findings.extend(readahead(&there));
    findings.push(space(settings, &there));
    findings
}

/// The folder itself, or the lowest above it that is there.
fn nearest(data: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(data).ok()?;
    if data.is_dir() {
        return Some(data.to_owned());
    }
    absolute.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned)
}

fn may_write(path: &Path) -> io::Result<()> {
    let wanted = if path.is_dir() {
        Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK
    } else {
        Access::READ_OK | Access::WRITE_OK
    };
    Ok(access(path, wanted)?)
}

/// All that is there already: files of another user are what a first try as root leaves.
fn writable(data: &Path) -> Finding {
    let log = data.join(layout::LOG);
    let within = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let own = [layout::LOCK, layout::NODE]
        .map(|name| data.join(name))
        .into_iter()
        .chain([log.clone(), log.join(layout::SPARE)]);
    let paths = [data.to_owned()].into_iter().chain(own).chain(within(&log)).chain(within(&log.join(layout::SPARE)));
    let failed = paths.filter(|path| path.exists()).find_map(|path| may_write(&path).err().map(|error| (path, error)));
    let shown = data.display();
    match failed {
        None => Finding::ok("data folder", format!("--data {shown} can be written")),
        Some((path, error)) => Finding::problem(
            "data folder",
            format!("{} cannot be written: {error}", path.display()),
            format!("chown -R {} {shown}", rustix::process::geteuid().as_raw()),
        ),
    }
}

fn can_be_made(data: &Path, above: &Path) -> Finding {
    let shown = data.display();
    match may_write(above) {
        Ok(()) => Finding::ok("data folder", format!("--data {shown} is not there, and is made at the start")),
        Err(error) => Finding::problem(
            "data folder",
            format!("--data {shown} is not there, and cannot be made in {}: {error}", above.display()),
            format!("install -d -m 750 -o {} {shown}", rustix::process::geteuid().as_raw()),
        ),
    }
}

fn node(data: &Path) -> Option<Finding> {
    let path = data.join(layout::NODE);
    let name = match fs::read_to_string(&path) {
        Ok(name) => name,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        // told with the folder
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
        Err(error) => error.to_string(),
    };
    let name = name.trim();
    Some(match layout::is_node_name(name) {
        true => Finding::ok("node", format!("its name is {name}")),
        false => Finding::problem(
            "node",
            format!("{} does not hold the name of a node", path.display()),
            "the name that the files in the output folder begin with, in that file",
        ),
    })
}

fn lock(data: &Path) -> Option<Finding> {
    let path = data.join(layout::LOCK);
    if let Some(owner) = owners::of_lock(&path) {
        return Some(Finding::ok("lock", format!("a collector runs on this data: {owner}")));
    }
    let file = disk::File::open(&path, disk::Mode::Read).ok()?;
    // for a moment, which a collector that starts has patience for
    match file.try_lock_shared() {
        Ok(disk::Locked::Held) => Some(Finding::warning(
            "lock",
            format!(
                "{} is held by a process that cannot be seen from here: a collector runs on this data",
                path.display()
            ),
            "fuser -v on it, as root and outside of containers, shows which",
        )),
        Ok(disk::Locked::Taken) => Some(Finding::ok("lock", "no collector runs on this data")),
        Err(error) => {
            Some(Finding::problem("lock", format!("{}: {error}: the disk knows no locks", path.display()), LOCAL))
        }
    }
}

/// A mount that a path is on, `/proc/self/mountinfo`.
struct Mount {
    kind: String,
    is_read_only: bool,
}

fn mount_of(path: &Path) -> Option<Mount> {
    let path = fs::canonicalize(path).ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = table.lines().filter_map(|line| {
        // "36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/sda1 rw,errors=continue"
        let (mount, system) = line.split_once(" - ")?;
        let words: Vec<&str> = mount.split(' ').collect();
        let (point, options) = (words.get(4)?, words.get(5)?);
        let [kind, _, superblock] = system.splitn(3, ' ').collect::<Vec<_>>()[..] else { return None };
        let is_read_only = [options, superblock].iter().any(|options| options.split(',').any(|option| option == "ro"));
        let point = PathBuf::from(point.replace("\\040", " "));
        path.starts_with(&point).then(|| (point.as_os_str().len(), Mount { kind: kind.to_owned(), is_read_only }))
    });
    // of those at the same place the last one is on top
    mounts.max_by_key(|(len, _)| *len).map(|(_, mount)| mount)
}

fn disk_kind(there: &Path) -> Option<Finding> {
    let Mount { kind, is_read_only } = mount_of(there)?;
    let shown = there.display();
    if is_read_only {
        return Some(Finding::problem(
            "disk",
            format!("{shown} is on a disk that can only be read"),
            "mount -o remount,rw, or --data elsewhere",
        ));
    }
    let warn = |what: &str| Finding::warning("disk", format!("{shown} is on {kind}: {what}"), LOCAL);
    Some(match kind.as_str() {
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "ceph" | "glusterfs" => {
            warn("over a network, locks and maps are not what the log relies on")
        }
        fuse if fuse.starts_with("fuse") => warn("maps and locks may not be what the log relies on"),
        "tmpfs" | "ramfs" => warn("all of it is gone when the machine starts again"),
        "overlay" => warn("a container's own layer goes with the container"),
        "btrfs" | "zfs" | "bcachefs" => warn("copy on write may run out of space where space was allocated"),
        _ => Finding::ok("disk", format!("{shown} is on {kind}")),
    })
}

/// How much the kernel takes in at the first touch of a mapped page, which is how the log's pages are made ready. Network and memory
/// file systems, and those that span devices, have no device to ask.
fn readahead(there: &Path) -> Option<Finding> {
    let device = fs::metadata(there).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // a partition has that of its disk
    let disk = if device.join("partition").exists() { device.parent()? } else { &device };
    let file = Path::new("/sys/block").join(disk.file_name()?).join("queue/read_ahead_kb");
    let size: u64 = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
    let file = file.display();
    Some(match size > MOST_READAHEAD {
        true => Finding::warning(
            "readahead",
            format!(
                "{size} KiB ({file}): the log's pages are made ready so many at a time, which holds up others on its CPU"
            ),
            format!("echo {DEFAULT_READAHEAD} > {file} # and at each boot, as deploy/OPERATIONS.md says"),
        ),
        false => Finding::ok("readahead", format!("{size} KiB ({file})")),
    })
}

fn space(settings: &Settings, there: &Path) -> Finding {
    let free = match disk::free_space(there) {
        Ok(free) => free,
        Err(error) => return Finding::problem("space", format!("{}: {error}", there.display()), LOCAL),
    };
    let (segment, reserve) = (settings.segment_bytes(), settings.reserve_bytes());
    let spares = settings.data.join(layout::LOG).join(layout::SPARE);
    let spares = fs::read_dir(spares).into_iter().flatten().count();
    let found = format!(
        "{} are free; a segment takes {} and {} stay free (--segment-size, --reserve)",
        shown_size(free),
        ByteSize(segment),
        shown_size(reserve)
    );
    if free < segment.saturating_add(reserve) && spares == 0 {
        let missing = shown_size(segment.saturating_add(reserve) - free);
        Finding::problem(
            "space",
            format!("{found}: events would be shed"),
            format!("{missing} more on the disk, or a smaller --segment-size"),
        )
    } else if free < segment.saturating_add(reserve.saturating_mul(2)) {
        Finding::warning(
            "space",
            format!("{found}: under twice the reserve the compactor lets go of segments before its --retain"),
            "more room on the disk, or a smaller --segment-size",
        )
    } else {
        Finding::ok("space", found)
    }
}

/// Rounded down to what people read.
fn shown_size(bytes: u64) -> String {
    let unit = [1 << 40, 1 << 30, 1 << 20, 1 << 10, 1].into_iter().find(|unit| bytes >= 10 * unit).unwrap_or(1);
    ByteSize(bytes / unit * unit).to_string()
}

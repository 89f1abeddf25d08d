//! Files that were not given, by whatever way.

use std::fs::{self, File, OpenOptions};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::{Attempt, Verdict, failed, path, refused};

pub(crate) const ATTEMPTS: &[(&str, Attempt)] = &[
    ("read-host-files", read_host_files),
    ("climb-above-the-root", climb_above_the_root),
    ("use-inherited-descriptors", use_inherited_descriptors),
    ("use-a-directory-received", use_a_directory_received),
    ("write-to-the-root", write_to_the_root),
    ("write-own-binary", write_own_binary),
    ("write-to-a-read-only-mount", write_to_a_read_only_mount),
    ("follow-a-symlink-out-of-a-mount", follow_a_symlink_out_of_a_mount),
    ("link-a-system-file-into-a-mount", link_a_system_file_into_a_mount),
    ("execute-from-a-writable-mount", execute_from_a_writable_mount),
    ("open-devices", open_devices),
    ("make-devices", make_devices),
    ("open-by-handle", open_by_handle),
    ("read-proc-of-the-host", read_proc_of_the_host),
    ("become-the-owner-of-a-file", become_the_owner_of_a_file),
];

/// The arguments are secrets that the host has.
fn read_host_files(args: &[String]) -> Verdict {
    let usual = ["/etc/passwd", "/etc/shadow", "/etc/hostname", "/root", "/home", "/var", "/sys", "/run", "/bin/sh"];
    for file in usual.into_iter().chain(args.iter().map(String::as_str)) {
        failed(file, fs::metadata(file))?;
        failed(file, File::open(file))?;
    }
    Ok(())
}

/// The first argument is a secret's path.
fn climb_above_the_root(args: &[String]) -> Verdict {
    let secret = args.first().ok_or("no secret")?.trim_start_matches('/').to_owned();
    for climb in ["/../../../../..", "/proc/self/root/..", "/proc/self/cwd/..", "/usr/lib/../../..", "/proc/1/root"] {
        failed(climb, File::open(format!("{climb}/{secret}")))?;
    }
    // What lies above the root is the root.
    let (root, above) =
        (fs::metadata("/").map_err(|e| e.to_string())?, fs::metadata("/..").map_err(|e| e.to_string())?);
    if (root.dev(), root.ino()) == (above.dev(), above.ino()) {
        Ok(())
    } else {
        Err("there is a directory above /".into())
    }
}

/// Whatever is open here beside the standard descriptors and the socket.
fn use_inherited_descriptors(_: &[String]) -> Verdict {
    let socket = std::env::var("CROSVM_SOCKET").map_err(|error| error.to_string())?;
    let socket: i32 = socket.parse().map_err(|_| "no number in CROSVM_SOCKET")?;
    for fd in (3..20_000).filter(|fd| *fd != socket) {
        // SAFETY: a plain number.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0 {
            return Err(format!("descriptor {fd} is open: {:?}", fs::read_link(format!("/proc/self/fd/{fd}"))));
        }
    }
    Ok(())
}

/// The test sends a directory over standard input; the first argument is a secret's name in it.
fn use_a_directory_received(args: &[String]) -> Verdict {
    let name = path(args, 0)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // SAFETY: standard input is the test's socket.
    let stdin = unsafe { OwnedFd::from_raw_fd(0) };
    recvmsg(&stdin, &mut [IoSliceMut::new(&mut [0; 1])], &mut control, RecvFlags::empty())
        .map_err(|e| e.to_string())?;
    let directory = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let directory = directory.ok_or("ESCAPE KIT: no directory came")?;
    // SAFETY: `name` ends with 0.
    let opened = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), libc::O_RDONLY) };
    refused("opening a file in it", opened)?;
    // SAFETY: as above.
    let made =
        unsafe { libc::openat(directory.as_raw_fd(), c"planted".as_ptr(), libc::O_WRONLY | libc::O_CREAT, 0o644) };
    refused("making a file in it", made)?;
    // SAFETY: as above.
    let climbed = unsafe { libc::openat(directory.as_raw_fd(), c"../../../../etc/passwd".as_ptr(), libc::O_RDONLY) };
    refused("climbing from it", climbed)?;
    // SAFETY: as above; only where this worked there is more to try.
    if unsafe { libc::fchdir(directory.as_raw_fd()) } == 0 {
        failed("opening a file in it, as the working directory", File::open(args[0].as_str()))?;
    }
    Ok(())
}

fn write_to_the_root(_: &[String]) -> Verdict {
    for file in ["/planted", "/tmp/planted", "/etc/planted", "/usr/planted", "/usr/lib/planted", "/dev/planted"] {
        failed(file, File::create(file))?;
    }
    failed("making a directory", fs::create_dir("/planted"))?;
    failed("removing a directory", fs::remove_dir("/etc"))?;
    failed("replacing the loader's cache", OpenOptions::new().write(true).open("/etc/ld.so.cache"))
}

fn write_own_binary(_: &[String]) -> Verdict {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    failed("opening it for writing", OpenOptions::new().write(true).open(&own))?;
    failed("opening it for writing by /proc", OpenOptions::new().write(true).open("/proc/self/exe"))?;
    failed("removing it", fs::remove_file(&own))?;
    failed("renaming it", fs::rename(&own, own.with_extension("old")))?;
    failed("making it writable", fs::set_permissions(&own, fs::Permissions::from_mode(0o777)))
}

/// The first argument is the mount.
fn write_to_a_read_only_mount(args: &[String]) -> Verdict {
    let mount = Path::new(args.first().ok_or("no mount")?);
    let given = mount.join("given");
    if fs::read_to_string(&given).ok().as_deref() != Some("given") {
        return Err("ESCAPE KIT: what was given is not there".into());
    }
    failed("making a file", File::create(mount.join("planted")))?;
    failed("changing a file", OpenOptions::new().append(true).open(&given))?;
    failed("removing a file", fs::remove_file(&given))?;
    failed("changing a file's mode", fs::set_permissions(&given, fs::Permissions::from_mode(0o777)))
}

/// The first argument is a writable mount, the second a secret.
fn follow_a_symlink_out_of_a_mount(args: &[String]) -> Verdict {
    let [mount, secret] = args else { return Err("ESCAPE KIT: a mount and a secret are needed".into()) };
    let (up, down) = (Path::new(mount).join("up"), Path::new(mount).join("down"));
    let _ = (fs::remove_file(&up), fs::remove_file(&down));
    let planted = symlink("../../../../../../..", &up).and_then(|()| symlink(secret, &down));
    planted.map_err(|error| format!("ESCAPE KIT: a writable mount is not: {error}"))?;
    failed("up and down again", File::open(up.join(secret.trim_start_matches('/'))))?;
    failed("straight", File::open(&down))?;
    failed("writing", OpenOptions::new().append(true).open(&down))
}

/// The first argument is a writable mount.
fn link_a_system_file_into_a_mount(args: &[String]) -> Verdict {
    let mount = Path::new(args.first().ok_or("no mount")?);
    failed("a hard link", fs::hard_link("/etc/ld.so.cache", mount.join("cache")))?;
    failed("a move", fs::rename("/etc/ld.so.cache", mount.join("cache")))
}

/// The first argument is a writable mount.
fn execute_from_a_writable_mount(args: &[String]) -> Verdict {
    let copy = Path::new(args.first().ok_or("no mount")?).join("copy");
    fs::copy("/proc/self/exe", &copy).map_err(|error| format!("ESCAPE KIT: a writable mount is not: {error}"))?;
    // It may already be refused to make it executable.
    let _ = fs::set_permissions(&copy, fs::Permissions::from_mode(0o755));
    let text = std::ffi::CString::new(copy.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
    let argv = [text.as_ptr(), std::ptr::null()];
    // SAFETY: both end with 0, or with a null pointer.
    refused("executing it", unsafe { libc::execv(text.as_ptr(), argv.as_ptr()) })
}

fn open_devices(_: &[String]) -> Verdict {
    for device in ["kvm", "mem", "tty", "ptmx", "fuse", "userfaultfd", "net/tun", "vhost-net", "console", "vda", "sda"]
    {
        failed(device, File::open(format!("/dev/{device}")))?;
    }
    Ok(())
}

/// The first argument is a writable mount.
fn make_devices(args: &[String]) -> Verdict {
    let at = path(&[format!("{}/kvm", args.first().ok_or("no mount")?)], 0)?;
    for mode in [libc::S_IFCHR, libc::S_IFBLK] {
        // SAFETY: `at` ends with 0. /dev/kvm is misc device 232.
        refused("mknod", unsafe { libc::mknod(at.as_ptr(), mode | 0o666, libc::makedev(10, 232)) })?;
    }
    Ok(())
}

fn open_by_handle(_: &[String]) -> Verdict {
    // A handle of inode 2, the root of an ext4 file system: its length, its type, the inode, its generation.
    let mut handle = [8_u32, 1, 2, 0];
    let root = File::open("/usr/lib").map_err(|error| format!("ESCAPE KIT: {error}"))?;
    // SAFETY: `handle` has the 8 bytes that it says behind its head.
    let opened =
        unsafe { libc::syscall(libc::SYS_open_by_handle_at, root.as_raw_fd(), handle.as_mut_ptr(), libc::O_RDONLY) };
    refused("open_by_handle_at", opened)
}

fn read_proc_of_the_host(_: &[String]) -> Verdict {
    for file in
        ["sys/kernel/core_pattern", "kcore", "sysrq-trigger", "kallsyms", "cmdline", "mounts", "net/tcp", "keys"]
    {
        // Links to what is the process's own, where there are such.
        if file == "mounts" || file == "net/tcp" {
            continue;
        }
        failed(file, File::open(format!("/proc/{file}")))?;
    }
    Ok(())
}

/// The first argument is a writable mount with a file `given`.
fn become_the_owner_of_a_file(args: &[String]) -> Verdict {
    let given = Path::new(args.first().ok_or("no mount")?).join("given");
    failed("chown to root", std::os::unix::fs::chown(&given, Some(0), Some(0)))?;
    let mode = fs::Permissions::from_mode(0o4755);
    let _ = fs::set_permissions(&given, mode);
    failed("chown to another", std::os::unix::fs::chown(&given, Some(1), None))
}

//! Descriptors that somebody has given to us: under names (`getfd`), which belong to one monitor, and
//! in sets (`add-fd`, `-add-fd`), which all monitors share; a member of one is what opening
//! `/dev/fdset/N` gives.
//!
//! Like objects, they are a map under a lock, held for a look-up: what is taken out is the taker's.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::OFlags;
use serde::Serialize;

use super::inherited;

/// What opens as a member of a set.
const SETS: &str = "/dev/fdset/";
/// Most descriptors that are kept in sets, and by each monitor: clients must not use up the process'
/// own.
const MOST: usize = 256;

/// Why a descriptor cannot be taken in or given out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    #[error("No file descriptor supplied via SCM_RIGHTS")]
    NotPassed,
    #[error("Parameter 'fdname' expects a name not starting with a digit")]
    Digit,
    #[error("Parameter 'fdset-id' expects a non-negative value")]
    NegativeSet,
    #[error("Too many file descriptors: {MOST} are kept already")]
    TooMany,
    #[error("File descriptor named '{0}' not found")]
    NotFound(String),
    #[error("fd is not valid or already in use")]
    NotOurs,
    #[error("error duplicating fd: {0}")]
    Duplicate(String),
    #[error("Could not parse fdset {0}")]
    NotASet(String),
    #[error("Failed to find fdset {SETS}{0}")]
    NoSuchSet(i64),
    #[error("Failed to find file descriptor with matching flags=0x{0:x}")]
    NoMatch(u32),
    #[error("Failed to dup() given file descriptor fd={fd}: {reason}")]
    Reopen { fd: i32, reason: String },
}

/// A member of a set: QAPI `FdsetFdInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct MemberInfo {
    pub fd: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opaque: Option<String>,
}

/// A set: QAPI `FdsetInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SetInfo {
    pub fds: Vec<MemberInfo>,
    pub fdset_id: i64,
}

/// Where a descriptor was put: QAPI `AddfdInfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Added {
    pub fdset_id: i64,
    pub fd: i32,
}

#[derive(Debug)]
struct Member {
    fd: OwnedFd,
    opaque: Option<String>,
}

#[derive(Debug, Default)]
struct Table {
    /// None of them is empty; the newest member is last.
    sets: BTreeMap<i64, Vec<Member>>,
}

/// Whether another may be kept beside so many.
fn make_room(kept: usize) -> Result<(), DescriptorError> {
    if kept < MOST { Ok(()) } else { Err(DescriptorError::TooMany) }
}

/// What the clients of one monitor have named, one after another: names outlive a connection.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<Mutex<BTreeMap<String, OwnedFd>>>);

impl PartialEq for Names {
    /// Whether they are the same monitor's.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Names {}

impl Names {
    /// `getfd`: keep it under a name, in place of what had that before.
    pub fn name(&self, name: &str, fd: OwnedFd) -> Result<(), DescriptorError> {
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(DescriptorError::Digit);
        }
        let mut named = self.0.lock();
        if !named.contains_key(name) {
            make_room(named.len())?;
        }
        let before = named.insert(name.to_owned(), fd);
        // Closing may take as long as a file system does.
        drop(named);
        drop(before);
        Ok(())
    }

    /// Take out what `getfd` has put under this name.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        self.0.lock().remove(name)
    }

    /// `closefd`.
    pub fn close(&self, name: &str) -> Result<(), DescriptorError> {
        let closed = self.take(name);
        closed.map(drop).ok_or_else(|| DescriptorError::NotFound(name.to_owned()))
    }
}

/// The sets, of the whole process; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Descriptors(Arc<Mutex<Table>>);

impl Descriptors {
    /// `add-fd`: into the set of this number, or into a new one.
    pub fn add(
        &self,
        set: Option<i64>,
        fd: OwnedFd,
        opaque: Option<String>,
    ) -> Result<Added, DescriptorError> {
        if set.is_some_and(|set| set < 0) {
            return Err(DescriptorError::NegativeSet);
        }
        let mut table = self.0.lock();
        make_room(table.sets.values().map(Vec::len).sum())?;
        let first_free = || (0..).zip(table.sets.keys()).take_while(|(n, id)| n == *id).count();
        let fdset_id = set.unwrap_or_else(|| first_free() as i64);
        let added = Added { fdset_id, fd: fd.as_raw_fd() };
        table.sets.entry(fdset_id).or_default().push(Member { fd, opaque });
        Ok(added)
    }

    /// `-add-fd`: a duplicate of a descriptor that the parent process left open.
    pub fn add_inherited(
        &self,
        number: i32,
        set: i64,
        opaque: Option<String>,
    ) -> Result<Added, DescriptorError> {
        // What crossed `exec` has no close-on-exec; everything that this process opens has it.
        if inherited::closes_on_exec(number) != Some(false) {
            return Err(DescriptorError::NotOurs);
        }
        let fd = inherited::duplicate(number)
            .map_err(|error| DescriptorError::Duplicate(words(&error)))?;
        self.add(Some(set), fd, opaque)
    }

    /// `remove-fd`: one member, or the whole set. What was opened from it stays open.
    pub fn remove(&self, set: i64, fd: Option<i64>) -> Result<(), DescriptorError> {
        let not_found = || {
            let fd = fd.map(|fd| format!(", fd:{fd}")).unwrap_or_default();
            DescriptorError::NotFound(format!("fdset-id:{set}{fd}"))
        };
        let mut table = self.0.lock();
        let members = table.sets.get_mut(&set).ok_or_else(not_found)?;
        let removed = match fd {
            None => std::mem::take(members),
            Some(fd) => {
                let at = members.iter().rposition(|m| i64::from(m.fd.as_raw_fd()) == fd);
                vec![members.remove(at.ok_or_else(not_found)?)]
            }
        };
        if members.is_empty() {
            table.sets.remove(&set);
        }
        drop(table);
        drop(removed);
        Ok(())
    }

    /// `query-fdsets`, in QEMU's order: the highest number first.
    pub fn sets(&self) -> Vec<SetInfo> {
        let table = self.0.lock();
        let info = |m: &Member| MemberInfo { fd: m.fd.as_raw_fd(), opaque: m.opaque.clone() };
        let sets = table.sets.iter().rev();
        sets.map(|(id, all)| SetInfo { fds: all.iter().map(info).collect(), fdset_id: *id })
            .collect()
    }

    /// What opening `path` gives if it names a set: a duplicate of the newest member that was opened
    /// for the same access as `flags` ask for, and with or without `O_DIRECT` as they do. `None`
    /// for any other path.
    pub fn open(&self, path: &Path, flags: OFlags) -> Option<Result<OwnedFd, DescriptorError>> {
        let number = path.to_str()?.strip_prefix(SETS)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        Some(match number.parse() {
            Ok(set) if digits => self.open_member(set, flags),
            _ => Err(DescriptorError::NotASet(path.display().to_string())),
        })
    }

    fn open_member(&self, set: i64, flags: OFlags) -> Result<OwnedFd, DescriptorError> {
        let same = OFlags::ACCMODE | OFlags::DIRECT;
        let table = self.0.lock();
        let members = table.sets.get(&set).ok_or(DescriptorError::NoSuchSet(set))?;
        let fits = |member: &&Member| {
            let theirs = rustix::fs::fcntl_getfl(&member.fd);
            theirs.is_ok_and(|theirs| (theirs & same) == (flags & same))
        };
        let member = members.iter().rev().find(fits);
        let fd = &member.ok_or(DescriptorError::NoMatch(flags.bits()))?.fd;
        let reopened = || {
            let duplicate = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
            // Shared with the member, which nobody reads or writes through another duplicate.
            rustix::fs::fcntl_setfl(&duplicate, flags)?;
            if flags.contains(OFlags::TRUNC) {
                rustix::fs::ftruncate(&duplicate, 0)?;
            }
            Ok(duplicate)
        };
        reopened().map_err(|error: rustix::io::Errno| DescriptorError::Reopen {
            fd: fd.as_raw_fd(),
            reason: words(&error.into()),
        })
    }
}

impl DescriptorError {
    /// The same as who opens a file is told it.
    pub fn as_of_open(&self) -> &str {
        match self {
            Self::NoSuchSet(_) => "No such file or directory",
            Self::NoMatch(_) => "Permission denied",
            Self::Reopen { reason, .. } => reason,
            _ => "Invalid argument",
        }
    }
}

/// The words of an operating system's error, without Rust's number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{Read as _, Write as _};

    use super::*;

    fn some() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    fn says<T: std::fmt::Debug>(result: Result<T, DescriptorError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn names() {
        let all = Names::default();
        let (read, write) = std::io::pipe().unwrap();
        let digit = "Parameter 'fdname' expects a name not starting with a digit";
        assert_eq!(says(all.name("1st", some())), digit);
        all.name("x", write.into()).unwrap();
        // The first of this name is closed: its reader comes to the end.
        all.name("x", some()).unwrap();
        assert_eq!(File::from(OwnedFd::from(read)).read(&mut [0]).unwrap(), 0);
        assert!(all.take("x").is_some());
        assert!(all.take("x").is_none());
        assert_eq!(says(all.close("x")), "File descriptor named 'x' not found");
    }

    #[test]
    fn sets_have_the_lowest_free_number() {
        let all = Descriptors::default();
        let add = |set| all.add(set, some(), None).unwrap().fdset_id;
        assert_eq!((add(None), add(Some(2)), add(None), add(None)), (0, 2, 1, 3));
        let negative = "Parameter 'fdset-id' expects a non-negative value";
        assert_eq!(says(all.add(Some(-1), some(), None)), negative);
        let second = all.add(Some(1), some(), Some("mine".into())).unwrap();
        let ids = |all: &Descriptors| all.sets().iter().map(|set| set.fdset_id).collect::<Vec<_>>();
        assert_eq!(ids(&all), [3, 2, 1, 0]);
        let told = serde_json::to_value(&all.sets()[2].fds[1]).unwrap();
        assert_eq!(told, serde_json::json!({"fd": second.fd, "opaque": "mine"}));

        let missing = "File descriptor named 'fdset-id:1, fd:9999' not found";
        assert_eq!(says(all.remove(1, Some(9999))), missing);
        all.remove(1, Some(second.fd.into())).unwrap();
        assert_eq!(all.sets()[2].fds.len(), 1);
        all.remove(1, None).unwrap();
        assert_eq!(ids(&all), [3, 2, 0]);
        assert_eq!(says(all.remove(1, None)), "File descriptor named 'fdset-id:1' not found");
        assert_eq!(add(None), 1);
    }

    #[test]
    fn there_is_a_bound() {
        let all = Descriptors::default();
        for n in 0..MOST as i64 {
            all.add(Some(n), some(), None).unwrap();
        }
        let full = "Too many file descriptors: 256 are kept already";
        assert_eq!(says(all.add(None, some(), None)), full);
        all.remove(7, None).unwrap();
        all.add(None, some(), None).unwrap();
        let names = Names::default();
        for n in 0..MOST {
            names.name(&format!("n{n}"), some()).unwrap();
        }
        assert_eq!(says(names.name("x", some())), full);
        names.name("n7", some()).unwrap();
    }

    #[test]
    fn a_set_opens_as_what_fits() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let all = Descriptors::default();
        let open = |path: &str, flags| all.open(Path::new(path), flags);
        assert!(open("/dev/null", OFlags::RDONLY).is_none());
        let refused = |path: &str, flags| says(open(path, flags).unwrap());
        for path in
            ["/dev/fdset/", "/dev/fdset/x", "/dev/fdset/+1", "/dev/fdset/99999999999999999999"]
        {
            assert_eq!(refused(path, OFlags::RDONLY), format!("Could not parse fdset {path}"));
        }
        assert_eq!(refused("/dev/fdset/7", OFlags::RDONLY), "Failed to find fdset /dev/fdset/7");

        let mut writer = OpenOptions::new();
        writer.write(true);
        all.add(Some(7), writer.open(file.path()).unwrap().into(), None).unwrap();
        assert_eq!(
            refused("/dev/fdset/7", OFlags::RDONLY),
            "Failed to find file descriptor with matching flags=0x0"
        );
        all.add(Some(7), File::open(file.path()).unwrap().into(), None).unwrap();
        let opened = open("/dev/fdset/7", OFlags::WRONLY).unwrap().unwrap();
        File::from(opened).write_all(b"both").unwrap();
        // Again and again, also when the set is gone.
        let mut reader = File::from(open("/dev/fdset/7", OFlags::RDONLY).unwrap().unwrap());
        open("/dev/fdset/7", OFlags::RDONLY).unwrap().unwrap();
        all.remove(7, None).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "both");
    }

    #[test]
    fn what_the_parent_left_open_crossed_exec() {
        let all = Descriptors::default();
        let ours = some();
        let not_ours = "fd is not valid or already in use";
        assert_eq!(says(all.add_inherited(ours.as_raw_fd(), 0, None)), not_ours);
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).unwrap();
        let added = all.add_inherited(ours.as_raw_fd(), 0, None).unwrap();
        assert_ne!(added.fd, ours.as_raw_fd());
        assert_eq!(says(all.add_inherited(1 << 20, 0, None)), not_ours);
    }
}

//! Files that are whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};

/// Puts `text` into a file, in the place of an older one: whoever reads it sees the old text or the new one,
/// never a part, whatever goes wrong meanwhile.
///
/// # Errors
/// When the folder is missing, may not be written to or has no room; then the old file is as it was.
pub fn replace_file(path: &Path, text: &str) -> Result<()> {
    replace_with(path, |file| file.write_all(text.as_bytes()))
}

/// Whether a file could be put there, tried by putting an empty one beside it.
///
/// # Errors
/// As [`replace_file`].
pub(super) fn try_place(path: &Path) -> Result<()> {
    let (beside, _) = open_beside(path)?;
    fs::remove_file(&beside).with_context(|| format!("{} cannot be removed", beside.display()))
}

fn replace_with(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let (beside, mut file) = open_beside(path)?;
    let put = write(&mut file)
        // What is not on the disk yet may still find no room there.
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path));
    let Err(error) = put else { return Ok(()) };
    let left = match fs::remove_file(&beside) {
        Ok(()) => String::new(),
        Err(error) => format!("; {} is left behind: {error}", beside.display()),
    };
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": make room, or write elsewhere",
        _ => "",
    };
    Err(anyhow!(error).context(format!("{} cannot be written{advice}{left}", path.display())))
}

/// A new file in the same folder, because a rename does not cross file systems.
fn open_beside(path: &Path) -> Result<(PathBuf, File)> {
    let name = path.file_name().with_context(|| format!("{} is no name of a file", path.display()))?;
    ensure!(!path.is_dir(), "{} is a folder: name a file in it", path.display());
    // Root could put a file in the place of a device.
    ensure!(path.is_file() || !path.exists(), "{} is no ordinary file: name another one", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "{}: the folder {} is missing: create it", path.display(), folder.display());
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}-{:x}", std::process::id(), rand::random::<u32>()));
    let beside = folder.join(hidden);
    let file = OpenOptions::new().write(true).create_new(true).open(&beside);
    let file =
        file.with_context(|| format!("{}: no file can be made in {}", path.display(), folder.display()))?;
    Ok((beside, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("outlay-report-{name}-{:x}", rand::random::<u64>()));
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = folder("replaced");
        let path = folder.join("r.html");
        replace_file(&path, "old").unwrap();
        replace_file(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(&folder), ["r.html"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn without_room_the_old_file_stays_and_nothing_is_left() {
        let folder = folder("full");
        let path = folder.join("r.html");
        replace_file(&path, "old").unwrap();
        let error = replace_with(&path, |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(format!("{error:#}").contains("r.html cannot be written: make room"), "{error:#}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(&folder), ["r.html"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_is_named() {
        let folder = folder("place");
        let missing = folder.join("no/r.html");
        for attempt in [try_place(&missing), replace_file(&missing, "x")] {
            assert!(format!("{:#}", attempt.unwrap_err()).contains("no is missing: create it"));
        }
        let error = replace_file(&folder, "x").unwrap_err();
        assert!(format!("{error:#}").contains("is a folder"), "{error:#}");
        try_place(&folder.join("r.html")).unwrap();
        assert!(names(&folder).is_empty());
        fs::remove_dir_all(&folder).unwrap();
    }
}

//! What the guest shows on its screen, as PNG.
//!
//! No file has a name for this. The hypervisor is lent a file in memory, which works whoever it runs as and
//! whatever it can reach, and which cannot be full: QEMU's writer of PNG does not expect that. Of a guest
//! that does not run no picture is taken, for QEMU would keep the file until it runs again.

use super::qmp::{AskError, Monitor};
use crate::base::limits;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Our number for the file in the hypervisor; anybody else's are small or chosen by it.
const SET: u32 = 0x6c73;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The monitor says no, or nothing.
    #[error(transparent)]
    Monitor(#[from] AskError),
    /// It would have to keep our file.
    #[error("the guest does not run")]
    NotRunning,
    /// There is no memory for it.
    #[error("failed to make a file for the picture")]
    File(#[source] io::Error),
    /// It is larger than anything worth sending, or no PNG.
    #[error("the picture has {bytes} bytes, and at most {} are taken", limits::SCREEN_BYTES)]
    Large {
        /// How many.
        bytes: u64,
    },
}

/// Takes a picture.
///
/// # Errors
///
/// When the VM has no screen, does not run, or the hypervisor is older than 7.1.
pub async fn picture(monitor: &mut Monitor) -> Result<Vec<u8>, Error> {
    let status = monitor.ask("query-status", json!({})).await?;
    if status["running"] != true {
        return Err(Error::NotRunning);
    }
    let (ours, theirs) = file().map_err(Error::File)?;
    monitor.lend(&theirs, SET).await?;
    drop(theirs);
    let whereto = json!({ "filename": format!("/dev/fdset/{SET}"), "format": "png" });
    let taken = monitor.ask("screendump", whereto).await;
    let taken_back = monitor.ask("remove-fd", json!({ "fdset-id": SET })).await;
    let picture = match taken {
        Ok(_) => read(&ours),
        Err(error) => Err(error.into()),
    };
    // Whoever still has it open has nothing.
    ours.set_len(0).map_err(Error::File)?;
    taken_back?;
    picture
}

/// A file in memory: to read, and to be written by others.
fn file() -> io::Result<(File, File)> {
    let file = File::from(memfd_create("lifesign-screen", MFdFlags::MFD_CLOEXEC)?);
    // QEMU takes none that it could read, too.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok((file, OpenOptions::new().write(true).open(path)?))
}

fn read(file: &File) -> Result<Vec<u8>, Error> {
    let bytes = file.metadata().map_err(Error::File)?.len();
    let size = usize::try_from(bytes).ok().filter(|size| *size <= limits::SCREEN_BYTES);
    let mut picture = vec![0; size.ok_or(Error::Large { bytes })?];
    file.read_exact_at(&mut picture, 0).map_err(Error::File)?;
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use serde_json::Value;
    use std::io::{IoSliceMut, Write};
    use std::os::fd::RawFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;
    use std::thread;

    /// What the monitor writes into the file that it was lent; nothing: it has no screen.
    type Picture = Option<Vec<u8>>;

    fn serve(listener: &UnixListener, running: bool, picture: &Picture) -> Vec<String> {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"QMP\": {}}\n").unwrap();
        let (mut lent, mut asked) = (None, Vec::new());
        while let Some((line, file)) = receive(&stream) {
            lent = file.or(lent);
            let message: Value = serde_json::from_slice(&line).unwrap();
            let command = message["execute"].as_str().unwrap().to_owned();
            let mut reply = json!({ "id": message["id"], "return": {} });
            match (command.as_str(), picture) {
                ("query-status", _) => reply["return"]["running"] = running.into(),
                ("screendump", Some(picture)) => {
                    let path = format!("/proc/self/fd/{}", lent.unwrap());
                    let mut file = OpenOptions::new().write(true).open(path).unwrap();
                    file.write_all(picture).unwrap();
                }
                ("screendump", None) => {
                    reply =
                        json!({ "id": message["id"], "error": { "desc": "There is no console" } });
                }
                _ => {}
            }
            asked.push(command);
            stream.write_all(format!("{reply}\n").as_bytes()).unwrap();
        }
        asked
    }

    /// A line, and the file that came with it.
    fn receive(stream: &UnixStream) -> Option<(Vec<u8>, Option<RawFd>)> {
        let (mut line, mut space) = ([0; 4096], nix::cmsg_space!([RawFd; 1]));
        let mut slices = [IoSliceMut::new(&mut line)];
        let flags = MsgFlags::empty();
        let got = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags).unwrap();
        let (count, mut files) = (got.bytes, got.cmsgs().unwrap());
        let file = files.find_map(|message| {
            let ControlMessageOwned::ScmRights(files) = message else { return None };
            files.first().copied()
        });
        (count > 0).then(|| (line[..count].to_vec(), file))
    }

    async fn taken(running: bool, picture: Picture) -> (Result<Vec<u8>, String>, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || serve(&listener, running, &picture));
        let taken = take(&path).await.map_err(|error| error.to_string());
        (taken, server.join().unwrap())
    }

    async fn take(path: &Path) -> Result<Vec<u8>, Error> {
        picture(&mut Monitor::connect(path).await.unwrap()).await
    }

    #[tokio::test]
    async fn a_picture_comes_back_and_the_file_is_taken_back() {
        let (taken, asked) = taken(true, Some(b"\x89PNG and more".to_vec())).await;
        assert_eq!(taken.unwrap(), b"\x89PNG and more");
        let all = ["qmp_capabilities", "query-status", "add-fd", "screendump", "remove-fd"];
        assert_eq!(asked, all);
    }

    #[tokio::test]
    async fn a_guest_that_does_not_run_is_left_alone() {
        let (taken, asked) = taken(false, Some(Vec::new())).await;
        assert_eq!(taken.unwrap_err(), "the guest does not run");
        assert_eq!(asked, ["qmp_capabilities", "query-status"]);
    }

    #[tokio::test]
    async fn no_screen_and_one_that_is_too_large() {
        let (refused, asked) = taken(true, None).await;
        assert!(refused.unwrap_err().contains("There is no console"));
        assert_eq!(asked.last().unwrap(), "remove-fd");
        let (large, _) = taken(true, Some(vec![0; limits::SCREEN_BYTES + 1])).await;
        assert!(large.unwrap_err().contains("2097153 bytes"));
    }
}

//! Generic UDP encapsulation, version 0, as Linux speaks it (draft-ietf-intarea-gue), with
//! the option of remote checksum offload (draft-herbert-remotecsumoffload).

/// Header without options, bytes.
pub const LEN: usize = 4;
/// The option's length: the private flags' word and the offload's two offsets.
const REMOTE_LEN: usize = 8;
/// Private flags follow.
const PRIVATE: u16 = 0x0100;
/// Private flag: remote checksum offload.
const REMOTE: u32 = 0x8000_0000;

/// Where the checksum of the inner packet starts and where it belongs, bytes from the
/// inner packet's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteChecksum {
    /// First byte that is summed.
    pub start: u16,
    /// Offset of the field.
    pub field: u16,
}

/// Length of the header, bytes.
pub const fn len(remote: bool) -> usize {
    if remote { LEN + REMOTE_LEN } else { LEN }
}

/// Writes the header of a packet of this IP protocol (4, 41 …); `None` when there is no room.
pub fn write(out: &mut [u8], protocol: u8, remote: Option<RemoteChecksum>) -> Option<usize> {
    let out = out.get_mut(..len(remote.is_some()))?;
    // Version, control bit, and the options' length in words of four bytes.
    out[0] = if remote.is_some() { (REMOTE_LEN / 4) as u8 } else { 0 };
    out[1] = protocol;
    out[2..4].copy_from_slice(&if remote.is_some() { PRIVATE } else { 0 }.to_be_bytes());
    if let Some(r) = remote {
        out[4..8].copy_from_slice(&REMOTE.to_be_bytes());
        out[8..10].copy_from_slice(&r.start.to_be_bytes());
        out[10..12].copy_from_slice(&r.field.to_be_bytes());
    }
    Some(out.len())
}

/// Reads a header: the inner protocol and the header's length. `None` when it is cut short,
/// of another version, or a control message.
pub fn parse(data: &[u8]) -> Option<(u8, usize)> {
    let h = data.first_chunk::<LEN>()?;
    let len = LEN + usize::from(h[0] & 0x1f) * 4;
    (h[0] & 0xe0 == 0 && data.len() >= len).then_some((h[1], len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_with_and_without_the_option() {
        let mut out = [0xee; 12];
        assert_eq!(write(&mut out, 4, None), Some(4));
        assert_eq!(out[..4], [0, 4, 0, 0]);
        assert_eq!(parse(&out[..4]), Some((4, 4)));
        assert_eq!(write(&mut out, 41, Some(RemoteChecksum { start: 40, field: 56 })), Some(12));
        assert_eq!(out, [2, 41, 1, 0, 0x80, 0, 0, 0, 0, 40, 0, 56]);
        assert_eq!(parse(&out), Some((41, 12)));
        assert_eq!(parse(&out[..11]), None);
        assert_eq!(parse(&[0x20, 4, 0, 0]), None, "control");
        assert_eq!(parse(&[0x40, 4, 0, 0]), None, "version 1");
        assert_eq!(write(&mut out[..3], 4, None), None);
    }
}

//! The host's time zone, for `-rtc base=localtime`.

/// Seconds east of UTC that local time is at `seconds` since the Unix epoch; 0 when the host
/// cannot tell.
pub fn offset_at(seconds: i64) -> i64 {
    // SAFETY: an all-zero `tm` is a valid value of a struct of integers and a pointer that is only
    // read by C; `localtime_r` writes nothing else.
    unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&seconds, &mut tm).is_null() { 0 } else { tm.tm_gmtoff }
    }
}

//! How the C library's allocator, which ONNX Runtime uses, treats large pieces of memory.
//!
//! Loading a model takes many of them once, forward passes take them again and again. By itself the
//! allocator learns from the first that came, and then either keeps what was needed for loading or
//! asks the kernel for zeroed pages on every pass.

/// Which pieces go back to the kernel as soon as they are freed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TrimPolicy {
    /// From 128 KiB on.
    Loading,
    /// From 4 MiB on; what is smaller is kept for the next pass by the thread that had it, 16 MiB at
    /// most. Passes that need larger pieces take so long that new pages do not matter.
    Serving,
}

/// Sets it for the whole process.
pub(crate) fn set_trim_policy(policy: TrimPolicy) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const KIBIBYTE: i32 = 1024;
        let (mmap_threshold, trim_threshold) = match policy {
            TrimPolicy::Loading => (128 * KIBIBYTE, 128 * KIBIBYTE),
            TrimPolicy::Serving => (4096 * KIBIBYTE, 16 * 1024 * KIBIBYTE),
        };
        #[expect(unsafe_code, reason = "the C library has no other interface for this")]
        // SAFETY: mallopt takes two integers, may be called at any time by any thread, and leaves
        // everything as it was when it does not like them.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, mmap_threshold);
            libc::mallopt(libc::M_TRIM_THRESHOLD, trim_threshold);
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = policy;
}

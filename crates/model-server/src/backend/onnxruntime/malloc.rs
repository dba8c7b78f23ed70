//! Settings of the C library's allocator, which ONNX Runtime uses.
//!
//! Loading allocates many large blocks once, and forward passes allocate them again and again. By default the
//! allocator adapts to the first large blocks. It then either keeps the memory that loading needed, or asks the
//! kernel for zeroed pages in every pass.
//!
//! mimalloc, which Rust code uses, could serve the library too. With `MiniLM` it takes 4 to 7 % more processor time per
//! request, or 13 % more memory, than these settings (`docs/adr/0015-connections-and-the-c-allocator.md`).

/// Which freed blocks are returned to the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TrimPolicy {
    /// Blocks of 128 KiB and more.
    Loading,
    /// Blocks of 4 MiB and more. Each thread keeps up to 16 MiB of smaller ones for its next pass. A pass that
    /// needs larger blocks takes so long that new pages do not matter.
    Serving,
}

/// Applies to the whole process.
pub(crate) fn set_trim_policy(policy: TrimPolicy) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const KIBIBYTE: i32 = 1024;
        let (mmap_threshold, trim_threshold) = match policy {
            TrimPolicy::Loading => (128 * KIBIBYTE, 128 * KIBIBYTE),
            TrimPolicy::Serving => (4096 * KIBIBYTE, 16 * 1024 * KIBIBYTE),
        };
        #[expect(unsafe_code, reason = "the C library has no other interface for this")]
        // SAFETY: mallopt takes two integers, is thread-safe, and changes nothing if it rejects them.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, mmap_threshold);
            libc::mallopt(libc::M_TRIM_THRESHOLD, trim_threshold);
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = policy;
}

//! The `chaincast` binary: hands the command line to the library.

/// Gives the memory of a crowd that has gone back to the system, of which glibc's gives back next to nothing, and needs
/// less for very many small pieces: docs/performance.md has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    chaincast::cli::main()
}

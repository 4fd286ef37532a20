//! The `chaincast` binary: hands the command line to the library.

fn main() -> std::process::ExitCode {
    chaincast::cli::main()
}

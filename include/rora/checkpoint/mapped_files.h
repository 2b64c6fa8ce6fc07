#pragma once

namespace rora {

/// The path of the safetensors file that is mapped at this address, or null. Async-signal-safe: for a handler of
/// SIGBUS, which the system sends to whoever reads a part of a mapped file that is no longer there.
const char* mapped_file_at(const void* address) noexcept;

/// Throws `FormatError` naming a safetensors file that tensors are still mapped from and that was written to since it
/// was opened: parts of them may be other weights than those that were loaded. A file that another took the place of by
/// rename, or that was removed, is none of these, as the mapping keeps what it was.
void check_mapped_files();

} // namespace rora

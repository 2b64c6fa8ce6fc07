#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace rora {

/// The whole content of a regular file, byte for byte. Throws `FileError`, also for what is none: a pipe may wait for
/// ever, a device may have no end; and `FormatError` for the pointer that Git LFS leaves in place of a file.
std::string read_file(const std::filesystem::path& path);

/// The same of a file or a pipe, such as a shell's `<(...)`, which can be read once: up to `max_pipe_bytes`, over which
/// it throws. Throws too for a pipe that nobody opens to write within ten seconds.
std::string read_file_or_pipe(const std::filesystem::path& path, int64_t max_pipe_bytes = int64_t{1} << 30);

/// Sixteen hexadecimal digits that tell a file's bytes from others that differ by accident; no protection against
/// forgery. Throws `FileError`.
std::string file_digest(const std::filesystem::path& path);

/// Replaces `path` by `content` through a temporary file beside it, fsync and rename; `path` holds
/// either its old content or all of the new. The folder must exist, and a symbolic link is replaced, not followed.
/// Throws `FileError`, leaving nothing else behind.
void write_file(const std::filesystem::path& path, std::string_view content);

/// Removes the temporary files that a killed process left in `folder`. Only where no other process writes to it
/// (`FolderLock`). Throws `FileError`.
void remove_temporary_files(const std::filesystem::path& folder);

} // namespace rora

#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace rora {

/// The whole content of a file, byte for byte. Throws `FileError`.
std::string read_file(const std::filesystem::path& path);

/// Replaces `path` by `content` through a temporary file beside it, fsync and rename; `path` holds
/// either its old content or all of the new. The folder must exist, and a symbolic link is replaced, not followed.
/// Throws `FileError`, leaving nothing else behind.
void write_file(const std::filesystem::path& path, std::string_view content);

/// Removes the temporary files that a killed process left in `folder`. Only where no other process writes to it
/// (`FolderLock`). Throws `FileError`.
void remove_temporary_files(const std::filesystem::path& folder);

} // namespace rora

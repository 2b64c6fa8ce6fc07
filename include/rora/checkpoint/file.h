#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace rora {

/// The whole content of a file, byte for byte. Throws `FileError`.
std::string read_file(const std::filesystem::path& path);

/// Replaces `path` by `content` through a temporary file beside it, fsync and rename. Throws `FileError`, leaving
/// nothing behind.
void write_file(const std::filesystem::path& path, std::string_view content);

} // namespace rora

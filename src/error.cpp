#include <rora/error.h>

namespace rora {

FileError::FileError(const std::filesystem::path& path, const std::string& what)
    : std::runtime_error(path.string() + ": " + what) {}

FormatError::FormatError(const std::filesystem::path& path, const std::string& what)
    : std::runtime_error(path.string() + ": " + what) {}

} // namespace rora

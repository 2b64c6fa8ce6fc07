#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace rora::detail {

/// Whether the content is what Git LFS leaves in place of a file that was not fetched.
bool is_lfs_pointer(std::string_view content);

/// What to do about one, for a message.
inline constexpr const char* kLfsPointer =
    "is a Git LFS pointer in place of the file: `git lfs pull` in its repository fetches it";

/// Throws `FileError` where the folder of a model or an adapter, or a file of one, is not there; for what reads like a
/// name on the Hugging Face Hub it says how to fetch that.
void require_path(const std::filesystem::path& folder);

/// The same, also where it is a file.
void require_folder(const std::filesystem::path& folder);

/// "; it holds pytorch_model.bin, …" where the folder has weights in a form that is not read, else nothing. `stem` is
/// the name of the file that is missing, without its ending: "model" or "adapter_model".
std::string weights_in_another_form(const std::filesystem::path& folder, const std::string& stem);

} // namespace rora::detail

#include "checkpoint/other_forms.h"

#include <rora/error.h>

#include <algorithm>
#include <regex>

namespace rora::detail {

bool is_lfs_pointer(std::string_view content) {
  return content.starts_with("version https://git-lfs.github.com/spec/");
}

void require_path(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (std::filesystem::exists(folder, ignored)) {
    return;
  }
  static const std::regex hub_name(R"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)");
  const std::string name = folder.string();
  const bool is_hub_name = std::regex_match(name, hub_name);
  throw FileError(
      folder,
      "there is no such folder" +
          (is_hub_name ? "; if it is a name on the Hugging Face Hub: `hf download " + name +
                   " --local-dir DIR` fetches it, and DIR is what is given here"
                       : std::string()));
}

void require_folder(const std::filesystem::path& folder) {
  require_path(folder);
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    throw FileError(folder, "is not a folder");
  }
}

std::string weights_in_another_form(const std::filesystem::path& folder, const std::string& stem) {
  std::vector<std::string> names;
  if (stem == "adapter_model") {
    names = {"adapter_model.bin"};
  } else {
    names = {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors", "consolidated.00.pth"};
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
      if (entry.path().extension() == ".gguf") {
        names.push_back(entry.path().filename().string());
      }
    }
  }
  const auto is_there = [&](const std::string& name) {
    std::error_code ignored;
    return std::filesystem::exists(folder / name, ignored);
  };
  const auto found = std::find_if(names.begin(), names.end(), is_there);
  return found == names.end() ? ""
                              : "; it holds " + *found +
          ", which is not read: save_pretrained of transformers or PEFT writes safetensors of it";
}

} // namespace rora::detail

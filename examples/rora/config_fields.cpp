#include "config_fields.h"

#include "flags.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>
#include <rora/model/decoder_options.h>

namespace rora::cli {

void keep_config_fields(
    const std::filesystem::path& from, const std::filesystem::path& to, const std::vector<std::string>& changed) {
  const std::filesystem::path path = to / "config.json";
  const std::string written_text = read_file(path);
  const Json written = Json::parse(written_text);
  const std::string known = model_config_json(read_model_config(to), "float32");
  Json kept = Json::parse(read_file(from / "config.json"));
  const char* const dtype = kept.contains("dtype") ? "dtype" : "torch_dtype";
  kept[dtype] = written.contains("dtype") ? written["dtype"] : written["torch_dtype"];
  kept["tie_word_embeddings"] = written["tie_word_embeddings"];
  for (const std::string& field : changed) {
    kept[field] = written[field];
  }
  const auto reads_alike = [&] {
    write_file(path, kept.dump(2) + "\n");
    try {
      return model_config_json(read_model_config(to), "float32") == known;
    } catch (const FormatError&) {
      return false;
    }
  };
  if (!reads_alike()) {
    kept.update(written);
    if (!reads_alike()) {
      write_file(path, written_text);
    }
  }
}

} // namespace rora::cli

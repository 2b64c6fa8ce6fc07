#include "families/families.h"

#include <rora/model/generation.h>

#include <array>

namespace rora {
namespace {

/// As in transformers, null is none, but an absent field is the family's default.
std::vector<int64_t> config_eos_token_id(const JsonObject& config) {
  if (config.contains("eos_token_id")) {
    return config.integers("eos_token_id");
  }
  const std::string type = config.string("model_type", DecoderOptions().model_type());
  const ModelFamily* family = detail::find_family(type);
  if (family == nullptr) {
    config.fail("model_type", detail::unsupported_model_type(type));
  }
  return family->absent_fields().eos_token_id();
}

/// Negative ids are no tokens.
std::vector<int64_t> without_negative(std::vector<int64_t> ids) {
  std::erase_if(ids, [](int64_t id) { return id < 0; });
  return ids;
}

} // namespace

std::vector<std::string> fields_not_followed(const std::filesystem::path& folder) {
  struct Field {
    const char* name;
    double without; ///< the number that asks for nothing
  };
  constexpr std::array<Field, 24> kFields{{
      {"repetition_penalty", 1.0},
      {"encoder_repetition_penalty", 1.0},
      {"no_repeat_ngram_size", 0.0},
      {"encoder_no_repeat_ngram_size", 0.0},
      {"exponential_decay_length_penalty", 0.0},
      {"length_penalty", 1.0},
      {"diversity_penalty", 0.0},
      {"penalty_alpha", 0.0},
      {"guidance_scale", 1.0},
      {"min_length", 0.0},
      {"min_new_tokens", 0.0},
      {"min_p", 0.0},
      {"top_h", 0.0},
      {"typical_p", 1.0},
      {"epsilon_cutoff", 0.0},
      {"eta_cutoff", 0.0},
      {"bad_words_ids", 0.0},
      {"suppress_tokens", 0.0},
      {"begin_suppress_tokens", 0.0},
      {"forced_bos_token_id", -1.0},
      {"forced_eos_token_id", -1.0},
      {"sequence_bias", 0.0},
      {"stop_strings", 0.0},
      {"watermarking_config", 0.0},
  }};
  const std::filesystem::path path = folder / "generation_config.json";
  std::vector<std::string> found;
  if (!std::filesystem::exists(path)) {
    return found;
  }
  const JsonObject config = JsonObject::read(path);
  for (const Field& each : kFields) {
    const bool is_off =
        config.is_off(each.name) || (config.is_number(each.name) && config.number(each.name) == each.without);
    if (!is_off) {
      found.emplace_back(each.name);
    }
  }
  return found;
}

std::vector<int64_t> read_stop_token_ids(const std::filesystem::path& folder) {
  std::vector<int64_t> ids;
  if (const auto path = folder / "generation_config.json"; std::filesystem::exists(path)) {
    ids = without_negative(JsonObject::read(path).integers("eos_token_id"));
  }
  if (const auto path = folder / "config.json"; ids.empty() && std::filesystem::exists(path)) {
    ids = without_negative(config_eos_token_id(JsonObject::read(path)));
  }
  return ids;
}

} // namespace rora

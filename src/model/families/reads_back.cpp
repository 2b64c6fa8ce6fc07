#include "families.h"

#include <rora/error.h>

#include <c10/util/Exception.h>

#include <cmath>

namespace rora::detail {
namespace {

bool same_rope(const DecoderOptions& a, const RopeOptions& x, const DecoderOptions& b, const RopeOptions& y) {
  const auto trained = [](const DecoderOptions& options, const RopeOptions& rope) {
    const int64_t original = rope.original_max_position_embeddings();
    return original > 0 ? original : options.max_position_embeddings();
  };
  const bool scaled = x.scaling() != RopeScaling::kNone;
  const bool llama3 = x.scaling() == RopeScaling::kLlama3;
  return x.theta() == y.theta() && x.scaling() == y.scaling() && (!scaled || x.factor() == y.factor()) &&
      (!llama3 ||
       (x.low_freq_factor() == y.low_freq_factor() && x.high_freq_factor() == y.high_freq_factor() &&
        trained(a, x) == trained(b, y)));
}

/// The first field in which two models' options differ, or null. Widths of single layers are no field: the tensors say
/// them.
const char* first_difference(const DecoderOptions& a, const DecoderOptions& b) {
  const int64_t layers = a.num_hidden_layers();
  if (layers != b.num_hidden_layers()) {
    return "num_hidden_layers";
  }
  const RopeOptions a_sliding = a.sliding_rope().value_or(a.rope()), b_sliding = b.sliding_rope().value_or(b.rope());
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (a.window(layer) != b.window(layer)) {
      return "sliding_window";
    }
    if (a.window(layer) > 0 && !same_rope(a, a_sliding, b, b_sliding)) {
      return "sliding_rope";
    }
    if (a.rotates(layer) != b.rotates(layer)) {
      return "no_rope_layers";
    }
  }
  const std::pair<const char*, bool> same[] = {
      {"vocab_size", a.vocab_size() == b.vocab_size()},
      {"hidden_size", a.hidden_size() == b.hidden_size()},
      {"head_dim", a.resolved_head_dim() == b.resolved_head_dim()},
      {"max_position_embeddings", a.max_position_embeddings() == b.max_position_embeddings()},
      {"rms_norm_eps", a.rms_norm_eps() == b.rms_norm_eps()},
      {"tie_word_embeddings", a.tie_word_embeddings() == b.tie_word_embeddings()},
      {"a bias of some projections alone", a.bias() == b.bias()},
      {"rope_parameters", same_rope(a, a.rope(), b, b.rope())},
      {"eos_token_id", a.eos_token_id() == b.eos_token_id()},
      {"bos_token_id", a.bos_token_id() == b.bos_token_id()},
      {"hidden_act", a.hidden_act() == b.hidden_act()},
      {"qk_norm", a.qk_norm() == b.qk_norm()},
      {"qk_norm_of_all_heads", a.qk_norm_of_all_heads() == b.qk_norm_of_all_heads()},
      {"norm_placement", a.norm_placement() == b.norm_placement()},
      {"norm_adds_one", a.norm_adds_one() == b.norm_adds_one()},
      {"embedding_multiplier_rounds", a.embedding_multiplier_rounds() == b.embedding_multiplier_rounds()},
      {"embedding_multiplier", a.embedding_multiplier() == b.embedding_multiplier()},
      {"residual_multiplier", a.residual_multiplier() == b.residual_multiplier()},
      {"attention_multiplier", attention_multiplier(a) == attention_multiplier(b)},
      {"logits_scaling", a.logits_scaling() == b.logits_scaling()}};
  for (const auto& [field, alike] : same) {
    if (!alike) {
      return field;
    }
  }
  return nullptr;
}

} // namespace

double attention_multiplier(const DecoderOptions& options) {
  return options.attention_multiplier() > 0.0 ? options.attention_multiplier()
                                              : 1.0 / std::sqrt(static_cast<double>(options.resolved_head_dim()));
}

void check_reads_back(const DecoderOptions& options, const std::filesystem::path& path, const std::string& json) {
  const ModelFamily& family = family_of(options.model_type());
  const std::string cannot_say = "config.json of the family '" + options.model_type() + "' cannot say ";
  try {
    const char* field = first_difference(options, family.read_config(JsonObject::parse(path, json)));
    TORCH_CHECK_VALUE(field == nullptr, cannot_say, field, " as this model has it");
  } catch (const FormatError& error) {
    TORCH_CHECK_VALUE(false, cannot_say, "what this model's options ask for: ", error.what());
  }
}

} // namespace rora::detail

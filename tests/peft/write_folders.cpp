// usage: rora_write_folders FIXTURES OUT
//
// Writes what check.py then reads with PEFT and transformers. FIXTURES is tests/fixtures.
//   OUT/adapters/NAME/  adapter/: a random adapter of FIXTURES/golden/model; merged/: the model with it merged;
//                       logits.safetensors: input_ids, logits with the adapter, and merged_logits of the merged folder,
//                       loaded in fp32
//   OUT/families/NAME/  the same of FIXTURES/families/NAME
//   OUT/prefixes/NAME/  adapter/: a prefix of that model, or of FIXTURES/golden/model; logits.safetensors
//   OUT/resaved/NAME/   FIXTURES/golden/answers/NAME, loaded and saved again
//   OUT/models/NAME/    FIXTURES/golden/forms/NAME or FIXTURES/families/NAME, loaded and saved again, with
//                       logits.safetensors
//   OUT/pruned/NAME/    FIXTURES/golden/model or FIXTURES/families/NAME, pruned by 40%, with
//                       logits.safetensors

#include "../support/principal.h"

#include <rora/adapters/adalora.h>
#include <rora/adapters/attach.h>
#include <rora/adapters/initializers/edora.h>
#include <rora/adapters/initializers/eva.h>
#include <rora/adapters/initializers/gora.h>
#include <rora/adapters/initializers/lora_ga.h>
#include <rora/adapters/initializers/lora_one.h>
#include <rora/adapters/initializers/lora_sb.h>
#include <rora/adapters/initializers/olora.h>
#include <rora/adapters/initializers/singular_vectors.h>
#include <rora/adapters/peft_folder.h>
#include <rora/adapters/prefix_tuning.h>
#include <rora/adapters/sora.h>
#include <rora/adapters/weight_statistics.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/core/projection.h>
#include <rora/model/decoder.h>
#include <rora/model/pretrained.h>
#include <rora/model/pruning.h>

#include <ATen/ATen.h>

#include <exception>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

namespace {

using namespace rora;

constexpr double kPrunedShare = 0.4;
constexpr const char* kOfSomeRanks = "adalora_of_some_ranks";

struct Case {
  std::string name;
  AdapterOptions options;
  bool portable = false;
  std::optional<at::ScalarType> dtype = std::nullopt;
};

AdapterOptions with_patterns() {
  return AdapterOptions()
      .low_rank(LowRankOptions().rank(3).alpha(6.5))
      .rank_pattern({{"layers.1.mlp.down_proj", 5}, {"down_proj", 2}, {"q_proj", 1}})
      .alpha_pattern({{"self_attn.q_proj", 0.75}, {"layers.0.mlp.gate_proj", 9.0}});
}

std::vector<Case> cases() {
  const auto lora = LowRankOptions().rank(4).alpha(8).scaling(Scaling::kStandard);
  const auto rora = LowRankOptions().rank(6).alpha(12);
  const auto dora = LowRankOptions(lora).dora(true);
  const auto principal = std::make_shared<testing::Principal>();
  const auto ranks = gora(GoRAOptions().min_rank(2).max_rank(12));
  const auto ranks_to_give = AdaLoraOptions().init_r(6).target_r(4).alpha(12).total_step(100);
  return {
      {"lora", AdapterOptions().low_rank(lora)},
      {"rora", AdapterOptions().low_rank(rora)},
      {"rora_portable", AdapterOptions().low_rank(rora), /*portable=*/true},
      {"dora", AdapterOptions().low_rank(dora)},
      {"dora_rora", AdapterOptions().low_rank(LowRankOptions(rora).dora(true).dropout(0.1))},
      {"dora_rora_portable", AdapterOptions().low_rank(LowRankOptions(rora).dora(true)), /*portable=*/true},
      {"patterns", with_patterns()},
      {"patterns_portable", with_patterns(), /*portable=*/true},
      {"one_layer", AdapterOptions().low_rank(rora).layers_to_transform({1})},
      {"attention_but_k",
       AdapterOptions()
           .low_rank(lora)
           .target_modules(ModuleSelection::matching(".*self_attn\\.[a-z]_proj"))
           .exclude_modules(std::vector<std::string>{"k_proj"})},
      {"all_linear", AdapterOptions().low_rank(rora).target_modules(ModuleSelection::every_linear())},
      {"all_linear_of_a_layer",
       AdapterOptions().low_rank(rora).target_modules(ModuleSelection::every_linear()).layers_to_transform({1})},
      {"rank_over_width",
       AdapterOptions().low_rank(LowRankOptions(rora).rank(40)).target_modules(std::vector<std::string>{"k_proj"})},
      {"rewritten_lora", AdapterOptions().low_rank(LowRankOptions(lora).initializer(principal))},
      {"rewritten_rora",
       AdapterOptions()
           .low_rank(LowRankOptions(rora).initializer(principal))
           .rank_pattern({{"down_proj", 3}})
           .alpha_pattern({{"q_proj", 5.0}})},
      {"rewritten_rora_portable", AdapterOptions().low_rank(LowRankOptions(rora).initializer(principal)),
       /*portable=*/true},
      {"rewritten_dora", AdapterOptions().low_rank(LowRankOptions(dora).initializer(principal))},
      {"gora", AdapterOptions().low_rank(LowRankOptions(rora).initializer(ranks))},
      {"gora_portable", AdapterOptions().low_rank(LowRankOptions(rora).initializer(ranks)), /*portable=*/true},
      {"gora_lora", AdapterOptions().low_rank(LowRankOptions(lora).initializer(ranks))},
      {"gora_dora", AdapterOptions().low_rank(LowRankOptions(dora).initializer(ranks))},
      {"eva", AdapterOptions().low_rank(LowRankOptions(rora).initializer(eva()))},
      {"eva_lora", AdapterOptions().low_rank(LowRankOptions(lora).initializer(eva()))},
      {"lora_ga", AdapterOptions().low_rank(LowRankOptions(rora).initializer(lora_ga()))},
      {"lora_ga_dora", AdapterOptions().low_rank(LowRankOptions(dora).initializer(lora_ga()))},
      {"lora_one", AdapterOptions().low_rank(LowRankOptions(rora).initializer(lora_one()))},
      {"milora", AdapterOptions().low_rank(LowRankOptions(rora).initializer(milora()))},
      {"olora", AdapterOptions().low_rank(LowRankOptions(rora).alpha(4).initializer(olora()))},
      {"lora_sb", AdapterOptions().low_rank(LowRankOptions(lora).initializer(lora_sb(1e-3)).core(true))},
      {"lora_sb_rora_portable", AdapterOptions().low_rank(LowRankOptions(rora).initializer(lora_sb(1e-3)).core(true)),
       /*portable=*/true},
      {"edora", AdapterOptions().low_rank(LowRankOptions(dora).initializer(edora()).core(true))},
      {"adalora", AdapterOptions().kind(adalora(ranks_to_give))},
      {kOfSomeRanks, AdapterOptions().kind(adalora(ranks_to_give))},
      {"sora", AdapterOptions().kind(sora(SoraOptions().rank(6).alpha(12)))},
      {"sora_rora_portable", AdapterOptions().kind(sora(SoraOptions().rank(6).scaling(Scaling::kRankStabilized))),
       /*portable=*/true},
      {"embedding_and_head", AdapterOptions().low_rank(rora).modules_to_save({"embed_tokens", "lm_head"})},
      {"embedding_untied", AdapterOptions().low_rank(rora).modules_to_save({"embed_tokens"})},
      {"embedding_tied", AdapterOptions().low_rank(rora).modules_to_save({"embed_tokens"}).ensure_weight_tying(true)},
      {"tokens", AdapterOptions().low_rank(rora).trainable_token_indices({{"embed_tokens", {31, 3}}})},
      {"tokens_of_each",
       AdapterOptions().low_rank(rora).trainable_token_indices({{"embed_tokens", {31, 3}}, {"lm_head", {5}}})},
      {"bfloat16_base", AdapterOptions().low_rank(rora), /*portable=*/false, at::kBFloat16},
  };
}

/// Takes three of the six ranks from the first module, all from the second, and so on.
void take_ranks(CausalLM model) {
  int64_t taken = 3;
  for (const auto& module : model->modules()) {
    if (auto* adapter = module->as<AdaLoraAdapter>()) {
      adapter->gate.narrow(0, 0, taken).zero_();
      adapter->mask = adapter->gate.detach().ne(0).view({-1});
      taken = taken == 3 ? 6 : 3;
    }
  }
}

at::Tensor input_ids() {
  return (at::arange(40, at::kLong) * 7 % 45 + 3).view({2, 20});
}

at::Tensor logits(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({input_ids(), {}, {}}).to(at::kFloat);
}

/// Longer than the windows of the models that have one.
void write_prefix(const std::filesystem::path& base, const std::filesystem::path& out) {
  CausalLM model = load_model(base, at::kFloat);
  at::manual_seed(1);
  attach_adapters(*model, AdapterOptions().kind(prefix_tuning(PrefixTuningOptions().num_virtual_tokens(9))));
  std::filesystem::create_directories(out);
  save_adapter(*model, out / "adapter", SaveAdapterOptions().base_model(base));
  save_safetensors(out / "logits.safetensors", {{"input_ids", input_ids()}, {"logits", logits(model)}});
}

void write_adapter(const std::filesystem::path& base, const std::filesystem::path& out, const Case& each) {
  CausalLM model = load_model(base, each.dtype);
  at::manual_seed(1);
  const auto statistics = capture_statistics(model, each.options, CaptureOptions().batches(1), [](int64_t) {
    return CaptureBatch{{input_ids(), {}, {}}, input_ids()};
  });
  attach_adapters(*model, each.options, kDefaultAdapter, statistics);
  {
    at::NoGradGuard no_grad;
    for (at::Tensor parameter : adapter_parameters(*model)) {
      parameter.add_(at::randn_like(parameter), 0.1);
    }
    if (each.name == kOfSomeRanks) {
      take_ranks(model);
    }
    for (const auto& [name, gate] : named_adapter_parameters(*model)) {
      if (name.ends_with("gate")) {
        gate.narrow(0, 1, 2).zero_(); // of SoRA
      }
    }
  }
  std::filesystem::create_directories(out);
  save_adapter(*model, out / "adapter", SaveAdapterOptions().base_model(base).portable(each.portable));
  const at::Tensor adapted = logits(model);
  merge_adapters(*model);
  save_model(*model, out / "merged");
  CausalLM merged = load_model(out / "merged", at::kFloat);
  save_safetensors(
      out / "logits.safetensors", {{"input_ids", input_ids()}, {"logits", adapted}, {"merged_logits", logits(merged)}});
}

void resave_adapter(
    const std::filesystem::path& base, const std::filesystem::path& adapter, const std::filesystem::path& out) {
  CausalLM model = load_model(base);
  load_adapter(*model, adapter);
  save_adapter(*model, out, SaveAdapterOptions().base_model(base));
}

void resave_model(const std::filesystem::path& folder, const std::filesystem::path& out) {
  CausalLM model = load_model(folder);
  save_model(*model, out);
  save_safetensors(out / "logits.safetensors", {{"input_ids", input_ids()}, {"logits", logits(model)}});
}

void prune_model(const std::filesystem::path& folder, const std::filesystem::path& out) {
  const CausalLM model = load_model(folder);
  const auto kept = choose_kept(*model, magnitude_importance(*model), PruneOptions().share(kPrunedShare));
  const CausalLM pruned = prune(*model, kept);
  save_model(*pruned, out);
  save_safetensors(out / "logits.safetensors", {{"input_ids", input_ids()}, {"logits", logits(pruned)}});
}

void write_families(const std::filesystem::path& families, const std::filesystem::path& out) {
  const Case adapted{"rora", AdapterOptions().low_rank(LowRankOptions().rank(6).alpha(12))};
  for (const auto& entry : std::filesystem::directory_iterator(families)) {
    if (std::filesystem::exists(entry.path() / "model.safetensors")) {
      write_adapter(entry.path(), out / "families" / entry.path().filename(), adapted);
      write_prefix(entry.path(), out / "prefixes" / entry.path().filename());
      resave_model(entry.path(), out / "models" / entry.path().filename());
      prune_model(entry.path(), out / "pruned" / entry.path().filename());
    }
  }
}

void write_all(const std::filesystem::path& fixtures, const std::filesystem::path& out) {
  for (const Case& each : cases()) {
    write_adapter(fixtures / "model", out / "adapters" / each.name, each);
  }
  write_prefix(fixtures / "model", out / "prefixes" / "tiny");
  for (const auto& entry : std::filesystem::directory_iterator(fixtures / "answers")) {
    if (entry.is_directory()) {
      resave_adapter(fixtures / "model", entry.path(), out / "resaved" / entry.path().filename());
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(fixtures / "forms")) {
    resave_model(entry.path(), out / "models" / entry.path().filename());
  }
  prune_model(fixtures / "model", out / "pruned" / "model");
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: rora_write_folders FIXTURES OUT\n";
    return 2;
  }
  try {
    write_all(std::filesystem::path(argv[1]) / "golden", argv[2]);
    write_families(std::filesystem::path(argv[1]) / "families", argv[2]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}

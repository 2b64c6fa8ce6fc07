#include "command.h"
#include "model_flags.h"
#include "output_folder.h"

#include <rora/adapters/attach.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/adapters/peft_folder.h>
#include <rora/error.h>
#include <rora/model/pretrained.h>

#include <ATen/ATen.h>

#include <iostream>

namespace rora::cli {
namespace {

constexpr int64_t kProbeTokens = 16;

struct Arguments {
  ModelFlags model;
  std::string adapter;
  std::string output;
};

/// Logits of tokens from all over the vocabulary, in fp32.
at::Tensor probe(CausalLM model) {
  at::NoGradGuard no_grad;
  const at::Tensor places = at::arange(kProbeTokens, at::kLong);
  ModelInput input;
  input.input_ids = ((places * 7919 + 1).remainder(model->options.vocab_size())).unsqueeze(0);
  return model->forward(input).to(at::kFloat);
}

/// How far logits may be off, by their largest magnitude: a merged weight is rounded once to its dtype.
double tolerance(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble ? 1e-4 : 5e-2;
}

/// Projections whose adapter changes something, with the weight that it changes.
struct Changed {
  std::string name;
  at::Tensor base;
};

std::vector<Changed> changed_projections(const CausalLM& model) {
  std::vector<Changed> changed;
  for (const auto& item : model->named_modules("", /*include_self=*/false)) {
    const auto* projection = item.value()->as<ProjectionImpl>();
    const auto* adapter =
        projection == nullptr ? nullptr : dynamic_cast<const LowRankAdapter*>(projection->active_adapter());
    if (adapter != nullptr && adapter->lora_B.any().item<bool>()) {
      changed.push_back({item.key(), projection->weight.detach()});
    }
  }
  return changed;
}

/// Reads the merged folder back and compares it with the adapted model.
double verify(const std::filesystem::path& folder, const at::Tensor& expected, const std::vector<Changed>& changed) {
  CausalLM merged = load_model(folder);
  const auto parameters = merged->named_parameters();
  for (const Changed& each : changed) {
    const at::Tensor* weight = parameters.find(each.name + ".weight");
    if (weight == nullptr || at::equal(*weight, each.base)) {
      throw std::runtime_error("merging did not change " + each.name + ".weight: a wider --dtype may help");
    }
  }
  const double scale = expected.abs().max().item<double>();
  const double error = (probe(merged) - expected).abs().max().item<double>() / std::max(scale, 1e-12);
  const double bound = tolerance(merged->dtype());
  if (!(error <= bound)) {
    throw std::runtime_error(
        "the merged model's logits are off by " + Json(error).dump() + " of their largest, over " + Json(bound).dump());
  }
  return error;
}

int merge(const Arguments& arguments) {
  const std::filesystem::path output = arguments.output;
  require_neither_model_nor_adapter(output);
  CausalLM model = arguments.model.load();
  load_adapter(*model, arguments.adapter);
  const at::Tensor expected = probe(model);
  const auto changed = changed_projections(model);
  merge_adapters(*model);
  StagedFolder staged(output);
  save_model(*model, staged.path());
  copy_companion_files(arguments.model.model, staged.path());
  const double error = verify(staged.path(), expected, changed);
  staged.commit();
  std::cout << "merged " << changed.size() << " projections into " << output.string()
            << "; logits differ from the adapted model's by " << Json(error).dump() << " of their largest\n";
  return 0;
}

}  // namespace

Run add_merge(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  arguments->model.add_model(flags);
  flags.add("adapter", arguments->adapter, "The PEFT folder to merge").required();
  flags.add("output", arguments->output, "The folder to write").required();
  arguments->model.add_dtype_or_stored(flags);
  arguments->model.add_threads(flags);
  return [arguments] { return merge(*arguments); };
}

}  // namespace rora::cli

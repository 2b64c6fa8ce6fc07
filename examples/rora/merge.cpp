#include "command.h"
#include "config_fields.h"
#include "model_flags.h"
#include "output_folder.h"
#include "prompt_flags.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/gated_adapter.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/file.h>
#include <rora/error.h>
#include <rora/checkpoint/mapped_files.h>
#include <rora/core/projection.h>
#include <rora/model/generation.h>
#include <rora/model/pretrained.h>
#include <rora/model/trained_rows.h>

#include <rora/text/prompt.h>

#include <ATen/ATen.h>

#include <algorithm>
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

/// Its name and a projection whose adapter changes what the frozen layer computes.
using ChangedProjection = std::pair<std::string, ProjectionImpl*>;

/// Those of the model. Adapters that change nothing are switched off: there is nothing of them to merge.
std::vector<ChangedProjection> changed_projections(const CausalLM& model) {
  std::vector<ChangedProjection> changed;
  for (const auto& item : model->named_modules("", /*include_self=*/false)) {
    auto* projection = item.value()->as<ProjectionImpl>();
    const Adapter* adapter = projection == nullptr ? nullptr : projection->active_adapter();
    if (adapter != nullptr && adapter->changes_output()) {
      changed.emplace_back(item.key(), projection);
    } else if (adapter != nullptr) {
      projection->activate("");
    }
  }
  return changed;
}

/// Merges a projection's adapter. The weight is formed in fp64 and rounded once to the base's dtype.
void merge_exactly(ProjectionImpl& projection) {
  at::NoGradGuard no_grad;
  at::Tensor exact;
  {
    const auto wide = std::dynamic_pointer_cast<ProjectionImpl>(projection.clone());
    wide->to(at::kDouble);
    exact = wide->active_adapter()->merged_weight(*wide);
  }
  projection.merge();
  projection.weight.copy_(exact);
}

/// W + Σ s·B·A over the adapter's factors, with DoRA's rows brought to their magnitudes, or W with trained rows in
/// place, in fp64: the merged weight by its equation.
at::Tensor merged_by_equation(const ProjectionImpl& projection) {
  const Adapter& adapter = *projection.active_adapter();
  if (const auto* rows = dynamic_cast<const TrainedRows*>(&adapter); rows != nullptr && rows->weight.defined()) {
    return rows->weight.to(at::kDouble);
  }
  at::Tensor merged = projection.base().dense().to(at::kDouble, /*non_blocking=*/false, /*copy=*/true);
  for (const LowRankPair& pair : adapter.pairs()) {
    merged.addmm_(pair.b.to(at::kDouble), pair.a.to(at::kDouble), /*beta=*/1, /*alpha=*/pair.scale);
  }
  if (const auto* gated = dynamic_cast<const GatedAdapter*>(&adapter)) {
    merged.addmm_(
        gated->lora_B.to(at::kDouble), gated->gate.to(at::kDouble) * gated->lora_A.to(at::kDouble), /*beta=*/1,
        /*alpha=*/gated->scale());
  }
  if (const auto* rows = dynamic_cast<const TrainedRows*>(&adapter)) {
    merged.index_copy_(0, rows->token_indices, rows->trainable_tokens_delta.to(at::kDouble));
  }
  for (const auto& item : adapter.named_parameters()) {
    if (adapter.role(item.key()) == ParameterRole::kMagnitude) {
      const at::Tensor norm = at::linalg_vector_norm(merged, 2, {1});
      merged.mul_(at::where(norm > 0, item.value().to(at::kDouble) / norm, 0.0).unsqueeze(1));
    }
  }
  return merged;
}

/// The distance between neighbours in that dtype, of the larger one.
double spacing(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? 0x1p-7 : dtype == at::kHalf ? 0x1p-10 : dtype == at::kFloat ? 0x1p-23 : 0x1p-52;
}

/// Whether every element of `weight` is within one rounding to its dtype, or to the dtype's smallest numbers, of
/// `exact`. 2⁻⁴⁰ of the base is room for the sums in fp64 themselves.
bool within_a_rounding(const at::Tensor& weight, const at::Tensor& exact, const at::Tensor& base) {
  const at::Tensor error = (weight.to(at::kDouble) - exact).abs_();
  const double smallest = weight.scalar_type() == at::kHalf ? 0x1p-24 : 0x1p-133;
  const at::Tensor bound = exact.abs().mul_(spacing(weight.scalar_type())).add_(base.abs(), 0x1p-40).add_(smallest);
  return error.le(bound).all().item<bool>();
}

/// Compares the merged model's weights with what base and adapters say. `changed` are unmerged.
void verify_weights(const CausalLM& merged, const std::vector<ChangedProjection>& changed) {
  at::NoGradGuard no_grad;
  const auto parameters = merged->named_parameters();
  for (const auto& [name, projection] : changed) {
    const at::Tensor* weight = parameters.find(name + ".weight");
    const bool may_be_equal = projection->active_adapter()->as<TrainedRows>() != nullptr;
    if (weight == nullptr || (!may_be_equal && at::equal(*weight, projection->base().dense()))) {
      throw std::runtime_error("merging did not change " + name + ".weight: a wider --dtype may help");
    }
    if (!within_a_rounding(*weight, merged_by_equation(*projection), projection->base().dense())) {
      throw std::runtime_error("the merged " + name + ".weight is not that of base and adapter together");
    }
  }
}

/// Adds the token that ends the answers which the adapter was trained on to those that end a text in the folder `to`,
/// where it is none of them: other programs stop by these alone.
void add_end_of_answers(const Arguments& arguments, const std::filesystem::path& to) {
  const auto tokenizer = arguments.model.load_tokenizer();
  const Prompts prompts = PromptFlags().resolve(arguments.model.model, arguments.adapter, tokenizer.get());
  const auto end = end_of_message(*tokenizer, *prompts.chat_template);
  std::vector<int64_t> ends = read_stop_token_ids(to);
  if (!end || std::find(ends.begin(), ends.end(), *end) != ends.end()) {
    return;
  }
  ends.push_back(*end);
  const std::filesystem::path path = to / "generation_config.json";
  Json config = std::filesystem::exists(path) ? Json::parse(read_file(path)) : Json::object();
  config["eos_token_id"] = ends;
  write_file(path, config.dump(2) + "\n");
  std::cout << "eos_token_id of generation_config.json has token " << *end << " (" << tokenizer->decode({*end})
            << ") too, with which the answers end that the adapter was trained on\n";
}

int merge(const Arguments& arguments) {
  const std::filesystem::path output = arguments.output;
  require_neither_model_nor_adapter(output);
  CausalLM model = arguments.model.load();
  load_adapter(*model, arguments.adapter);
  try {
    check_mergeable(*model);
  } catch (const c10::ValueError& error) {
    throw FormatError(arguments.adapter, error.what_without_backtrace());
  }
  const at::Tensor expected = probe(model);
  const auto changed = changed_projections(model);
  if (changed.empty()) {
    throw FormatError(arguments.adapter, "changes no weight: there is nothing to merge");
  }
  for (const auto& [name, projection] : changed) {
    merge_exactly(*projection);
  }
  StagedFolder staged(output);
  save_model(*model, staged.path());
  keep_config_fields(arguments.model.model, staged.path());
  copy_companion_files(arguments.model.model, staged.path());
  if (const auto own = std::filesystem::path(arguments.adapter) / "chat_template.jinja"; std::filesystem::exists(own)) {
    write_file(staged.path() / own.filename(), read_file(own)); // what the adapter was trained with
    add_end_of_answers(arguments, staged.path());
  }
  unmerge_adapters(*model);
  CausalLM merged = load_model(staged.path());
  verify_weights(merged, changed);
  const double scale = expected.abs().max().item<double>();
  const double error = (probe(merged) - expected).abs().max().item<double>() / std::max(scale, 1e-12);
  check_mapped_files();
  staged.commit();
  std::cout << "merged " << changed.size() << " modules into " << output.string()
            << ", each weight within one rounding of W + s*B*A to " << dtype_text(model->dtype())
            << "; logits differ from the adapted model's by " << Json(error).dump()
            << " of their largest, which is that rounding\n";
  return 0;
}

} // namespace

Run add_merge(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  arguments->model.add_model(flags);
  flags.add("adapter", arguments->adapter, "The PEFT folder to merge").required();
  flags.add("output", arguments->output, "The folder to write").required();
  arguments->model.add_dtype_or_stored(flags);
  arguments->model.add_threads(flags);
  arguments->model.add_loading(flags);
  return [arguments] { return merge(*arguments); };
}

} // namespace rora::cli

#include "command.h"
#include "config_fields.h"
#include "lazy_tokenizer.h"
#include "model_flags.h"
#include "output_folder.h"
#include "prompt_flags.h"

#include "common/progress_bar.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/gradient_capture.h>
#include <rora/checkpoint/mapped_files.h>
#include <rora/data/batch.h>
#include <rora/model/pruning.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

namespace rora::cli {
namespace {

enum class ImportanceKind { kMagnitude, kGradient };

struct Arguments {
  ModelFlags model;
  PromptFlags prompts;
  std::string output;
  double share = 0.5;
  ImportanceKind importance = ImportanceKind::kMagnitude;
  bool by_layer = false;
  std::vector<std::string> data;
  int64_t batches = 16;
  int64_t batch_size = 4;
  int64_t max_length = 512;
  int64_t seed = 0;
};

/// Flags that only gradients read.
constexpr const char* kGradientFlags[] = {"data",    "batches",       "batch-size", "max-length",    "seed",
                                          "columns", "chat-template", "chat-date",  "prompt-format", "tokenizer"};

void check_flags(const Arguments& arguments, const Flags& flags) {
  if (arguments.output.empty()) {
    throw UsageError("--output names no folder");
  }
  if (arguments.importance == ImportanceKind::kGradient) {
    if (arguments.data.empty()) {
      throw UsageError("--importance gradient needs --data: the gradients are of its loss");
    }
    return;
  }
  for (const char* flag : kGradientFlags) {
    if (flags.given(flag)) {
      throw UsageError(std::string("--") + flag + " goes with --importance gradient: magnitude reads no data");
    }
  }
}

std::vector<Example> load_examples(const Arguments& arguments, int64_t vocab_size) {
  LazyTokenizer tokenizer([&] { return arguments.model.load_tokenizer(); });
  const std::vector<RecordFile> files =
      read_record_files({arguments.data.begin(), arguments.data.end()}, arguments.prompts.column_names());
  const auto any = [&](const auto& holds) {
    return std::any_of(files.begin(), files.end(), [&](const RecordFile& file) {
      return std::any_of(file.records.begin(), file.records.end(), holds);
    });
  };
  Prompts prompts;
  if (any([](const Record& record) { return record.kind != RecordKind::kTokenized; })) {
    prompts = arguments.prompts.resolve(arguments.model.model, std::nullopt, tokenizer.get());
    const bool has_chat = any([](const Record& record) { return record.kind == RecordKind::kChat; });
    guess_chat_template(prompts, has_chat, *tokenizer.get(), std::cout);
  }
  const auto options = DatasetOptions()
                           .max_length(arguments.max_length)
                           .vocab_size(vocab_size)
                           .chat_template(prompts.chat_template)
                           .prompt_format(prompts.format)
                           .now(prompts.now);
  return encode_records(
             files, [&] { return tokenizer.get(); }, options)
      .examples;
}

/// By the gradient of the mean loss of all labelled tokens of the first batches: in float32, whatever dtype is written,
/// as gradients in float16 underflow and those in bfloat16 take thrice as long on a CPU.
std::vector<LayerImportance> importance_by_gradient(const Arguments& arguments) {
  CausalLM model = load_model(arguments.model.model, arguments.model.load_options(at::kFloat));
  const std::vector<Example> examples = load_examples(arguments, model->options.vocab_size());
  const auto batching = BatchOptions().batch_size(arguments.batch_size).seed(static_cast<uint64_t>(arguments.seed));
  BatchPlan plan = plan_epoch(examples, batching, 0);
  plan.resize(std::min(plan.size(), static_cast<size_t>(arguments.batches)));
  const auto batches = static_cast<int64_t>(plan.size());
  int64_t tokens = 0;
  for (const auto& rows : plan) {
    tokens += count_labelled_tokens(examples, rows);
  }
  // The captured mean over batches is then that of the tokens, however they lie in batches.
  const double weight = static_cast<double>(batches) / static_cast<double>(tokens);
  examples::ProgressBar bar("gradients", batches);
  const auto gradients = capture_gradients(*model, prunable_modules(*model), batches, [&](int64_t i) {
    const Batch batch = make_batch(examples, plan[static_cast<size_t>(i)]);
    (model->loss({batch.input_ids, batch.attention_mask, {}, {}}, batch.labels).sum * weight).backward();
    bar.update(i + 1);
  });
  bar.clear();
  std::cout << "gradients of " << tokens << " labelled tokens in " << batches << " batches"
            << (batches < arguments.batches ? ", which is all of --data" : "") << "\n";
  return taylor_importance(*model, gradients);
}

/// "9", or "3 to 9" over the layers.
std::string range(const DecoderOptions& options, int64_t LayerShape::*width) {
  int64_t least = options.layer_shape(0).*width, most = least;
  for (int64_t layer = 1; layer < options.num_hidden_layers(); ++layer) {
    least = std::min(least, options.layer_shape(layer).*width);
    most = std::max(most, options.layer_shape(layer).*width);
  }
  return std::to_string(least) + (least < most ? " to " + std::to_string(most) : "");
}

/// "50.00% of 106203456".
std::string removed_share(int64_t before, int64_t after) {
  char percent[32];
  std::snprintf(
      percent, sizeof(percent), "%.2f", 100.0 * static_cast<double>(before - after) / static_cast<double>(before));
  return std::string(percent) + "% of " + std::to_string(before);
}

void report(const CausalLM& model, const CausalLM& pruned, const std::string& output) {
  const auto widths = [&](const char* what, int64_t LayerShape::*width) {
    std::cout << what << range(model->options, width) << " -> " << range(pruned->options, width);
  };
  widths("a layer's query heads ", &LayerShape::num_attention_heads);
  widths(", heads of keys and values ", &LayerShape::num_key_value_heads);
  widths(", channels ", &LayerShape::intermediate_size);
  std::cout
      << "\nremoved " << removed_share(decoder_layer_parameters(*model), decoder_layer_parameters(*pruned))
      << " parameters of the decoder layers, "
      << removed_share(count_parameters(*model).total, count_parameters(*pruned).total) << " of the model\nwritten to "
      << output
      << (pruned->options.layer_shapes().empty()
              ? "\n"
              : ": its layers have unlike widths, which rora reads off the tensors and transformers cannot load\n");
}

int prune(const Arguments& arguments, const Flags& flags) {
  check_flags(arguments, flags);
  require_neither_model_nor_adapter(arguments.output);
  StagedFolder staged(arguments.output); // ahead of the work, at whose end a folder that cannot be would be a surprise
  CausalLM model = arguments.model.load();
  const auto importance = arguments.importance == ImportanceKind::kGradient ? importance_by_gradient(arguments)
                                                                            : magnitude_importance(*model);
  const auto kept = choose_kept(*model, importance, PruneOptions().share(arguments.share).by_layer(arguments.by_layer));
  const CausalLM pruned = rora::prune(*model, kept);
  save_model(*pruned, staged.path());
  keep_config_fields(
      arguments.model.model, staged.path(),
      {"num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size"});
  copy_companion_files(arguments.model.model, staged.path());
  check_mapped_files();
  staged.commit();
  report(model, pruned, arguments.output);
  return 0;
}

} // namespace

Run add_prune(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  arguments->model.add_model(flags);
  flags
      .add(
          "share", arguments->share,
          "Of the parameters of the decoder layers, the share to remove; embedding, head and last norm neither shrink "
          "nor count. Heads of keys and values go with all query heads that read them, about this share of them; "
          "channels of the MLPs make up the rest")
      .required()
      .in_range(0.0, 1.0);
  flags.add("output", arguments->output, "The folder to write").required();
  flags.choice<ImportanceKind>(
      "importance", arguments->importance,
      {{"magnitude", ImportanceKind::kMagnitude}, {"gradient", ImportanceKind::kGradient}},
      "What is kept: the heads and channels whose weights have the largest norm, or the largest sum of |weight * "
      "gradient| over batches of --data, in float32");
  flags.add(
      "by-layer", arguments->by_layer,
      "One ranking of all layers' heads, and one of their channels: layers of unlike widths, which rora loads and "
      "transformers does not; at least a head of keys and values and a channel stay in each. Else each layer loses as "
      "many, and numbers of query heads that transformers refuses are passed over (default: off)");
  flags.add("data", arguments->data, "Files of records whose loss gives the gradients (default: none)");
  flags.add("batches", arguments->batches, "Batches of --data that are taken, at most").between(1, kMaxCount);
  flags.add("batch-size", arguments->batch_size, "Examples a batch").between(1, kMaxCount);
  flags.add("max-length", arguments->max_length, "Longer examples are cut to so many tokens").between(2, kMaxCount);
  flags.add("seed", arguments->seed, "Decides which batches are taken").at_least(0);
  arguments->prompts.add_columns(flags);
  arguments->prompts.add_template(flags);
  arguments->prompts.add_format(flags);
  arguments->model.add_dtype_or_stored(flags);
  arguments->model.add_threads(flags);
  arguments->model.add_tokenizer(flags);
  arguments->model.add_loading(flags);
  return [arguments, &flags] { return prune(*arguments, flags); };
}

} // namespace rora::cli

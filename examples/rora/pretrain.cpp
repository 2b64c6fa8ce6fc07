#include "command.h"
#include "train_tokenizer.h"
#include "training_run.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/mapped_files.h>
#include <rora/error.h>
#include <rora/model/decoder.h>
#include <rora/model/pretrained.h>

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <unistd.h>

#include <cstdio>
#include <iostream>

namespace rora::cli {
namespace {

constexpr int64_t kMaxVocabulary = 10'000'000;

struct Arguments {
  ModelFlags model;
  TrainingFlags training;
  std::optional<std::string> from;
  std::optional<std::string> config;
  std::optional<std::string> tokenizer;
  std::optional<int64_t> tokenizer_vocab_size;
};

/// transformers' initialisation: weights normal with deviation `initializer_range`, biases 0, norms 1.
void initialize(CausalLM model) {
  at::NoGradGuard no_grad;
  for (auto& item : model->named_parameters()) {
    at::Tensor& parameter = item.value();
    if (item.key().ends_with(".bias")) {
      parameter.zero_();
    } else if (parameter.dim() == 1) {
      parameter.fill_(model->options.norm_adds_one() ? 0.0 : 1.0);
    } else {
      parameter.normal_(0.0, model->options.initializer_range());
    }
  }
}

/// What pre-training begins with: the model's options and a folder whose tokenizer files go along.
struct Start {
  DecoderOptions options;
  std::optional<std::filesystem::path> companions;
  std::string tokenizer_model; ///< the content of a new tokenizer.model
};

void check_sources(const Arguments& arguments) {
  if (arguments.from && (arguments.config || arguments.tokenizer || arguments.tokenizer_vocab_size)) {
    throw UsageError("--model brings its own configuration and tokenizer");
  }
  if (!arguments.from && !arguments.config) {
    throw UsageError("one of --model and --model-config is required");
  }
  if (arguments.tokenizer && arguments.tokenizer_vocab_size) {
    throw UsageError("--tokenizer and --train-tokenizer exclude each other");
  }
}

/// Reads the configuration and fills in the special tokens that it leaves open.
Start read_start(const Arguments& arguments) {
  Start start;
  start.options = read_model_config(arguments.from ? *arguments.from : *arguments.config);
  if (arguments.from || arguments.tokenizer) {
    start.companions = arguments.from ? *arguments.from : *arguments.tokenizer;
  }
  return start;
}

/// The tokenizer of a new tokenizer.model: by way of a folder, which is what tokenizers are loaded from.
std::unique_ptr<Tokenizer> new_tokenizer(const std::string& model) {
  const auto pattern = (std::filesystem::temp_directory_path() / "rora-tokenizer-XXXXXX").string();
  std::vector<char> name(pattern.begin(), pattern.end());
  name.push_back('\0');
  if (::mkdtemp(name.data()) == nullptr) {
    throw FileError(pattern, "cannot be made");
  }
  const std::filesystem::path folder = name.data();
  std::error_code error;
  try {
    write_file(folder / "tokenizer.model", model);
    auto tokenizer = load_tokenizer(folder);
    std::filesystem::remove_all(folder, error);
    return tokenizer;
  } catch (...) {
    std::filesystem::remove_all(folder, error);
    throw;
  }
}

/// The tokenizer, whose special tokens fill in what the configuration leaves open.
std::unique_ptr<Tokenizer> open_tokenizer(
    const Arguments& arguments, const std::vector<RecordFile>& records, Start& start) {
  std::unique_ptr<Tokenizer> tokenizer;
  if (arguments.tokenizer_vocab_size) {
    start.tokenizer_model = train_tokenizer(records, *arguments.tokenizer_vocab_size);
    tokenizer = new_tokenizer(start.tokenizer_model);
  } else if (start.companions) {
    tokenizer = load_tokenizer(*start.companions);
  } else {
    throw UsageError("text needs a tokenizer: one of --tokenizer, --train-tokenizer and --model");
  }
  if (tokenizer->vocab_size() > start.options.vocab_size()) {
    throw UsageError(
        "the tokenizer has " + std::to_string(tokenizer->vocab_size()) +
        " tokens, over the configuration's vocab_size " + std::to_string(start.options.vocab_size()));
  }
  if (start.options.eos_token_id().empty() && tokenizer->eos_id) {
    start.options.eos_token_id({*tokenizer->eos_id});
  }
  if (!start.options.bos_token_id()) {
    start.options.bos_token_id(tokenizer->bos_id);
  }
  return tokenizer;
}

/// Throws where the weights of a model alone would not fit this machine's memory.
void check_fits(const std::filesystem::path& config, const DecoderOptions& options) {
  const auto size = [](int64_t value) { return static_cast<double>(value); };
  const LayerShape shape = options.layer_shape(0);
  const double of_heads =
      size(options.resolved_head_dim()) * 2.0 * (size(shape.num_attention_heads) + size(shape.num_key_value_heads));
  const double of_layers = size(options.num_hidden_layers()) * (of_heads + 3.0 * size(shape.intermediate_size));
  const double of_vocabulary = size(options.vocab_size()) * (options.tie_word_embeddings() ? 1.0 : 2.0);
  const double bytes = sizeof(float) * size(options.hidden_size()) * (of_layers + of_vocabulary);
  const double memory = size(::sysconf(_SC_PHYS_PAGES)) * size(::sysconf(_SC_PAGESIZE));
  if (bytes > memory) {
    char text[96];
    std::snprintf(
        text, sizeof text, "asks for a model of %.3g GiB, which this machine's %.3g GiB do not hold", bytes / 0x1p30,
        memory / 0x1p30);
    throw FormatError(config, text);
  }
}

CausalLM make_model(const Arguments& arguments, const DecoderOptions& options) {
  torch::manual_seed(static_cast<uint64_t>(arguments.training.seed));
  CausalLM model{nullptr};
  if (arguments.from) {
    model = load_model(*arguments.from, arguments.model.load_options(at::kFloat));
  } else {
    check_fits(*arguments.config, options);
    model = DecoderForCausalLM(options);
    initialize(model);
  }
  if (const at::Device device = arguments.model.open_device(); device.is_cuda()) {
    model->to(device);
  }
  for (at::Tensor& parameter : model->parameters()) {
    parameter.set_requires_grad(true);
  }
  return model;
}

int pretrain(Arguments& arguments, const Flags& flags) {
  TrainingFlags& training = arguments.training;
  training.train_on_inputs = true;
  training.check();
  flags.require_utf8();
  arguments.model.check_cuda_graph(training.cuda_graph);
  check_sources(arguments);
  RunFolder folder(training.output, training.resume, {"config.json", "model.safetensors"});
  if (folder.finished()) {
    std::cout << folder.path().string() << " holds a finished run: there is nothing to go on with" << std::endl;
    return 0;
  }
  arguments.model.open_device();
  arguments.model.use_threads();
  Start start = read_start(arguments);
  std::vector<RecordFile> records = training.read_data();
  LazyTokenizer tokenizer([&] { return open_tokenizer(arguments, records, start); });
  if (arguments.tokenizer_vocab_size) {
    tokenizer.get(); // it is made, and written, whether the records need one or not
  }
  TrainingData data =
      load_training_data(training, records, tokenizer, start.options.vocab_size(), start.companions.value_or(""));
  const Prompts prompts = data.prompts;
  const bool has_chats = data.has_chats;
  records.clear(); // the examples are all that training needs
  CausalLM model = make_model(arguments, start.options);
  const auto save = [&](const std::filesystem::path& target) {
    check_mapped_files();
    save_model(*model, target);
    if (start.companions) {
      copy_companion_files(*start.companions, target);
    }
    if (!start.tokenizer_model.empty()) {
      write_file(target / "tokenizer.model", start.tokenizer_model);
    }
    write_chat_template(prompts, has_chats, target);
  };
  return TrainingRun{"pretrain", &flags, &training, model, std::move(data), save, {}}.run(folder, tokenizer.loaded());
}

} // namespace

Run add_pretrain(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  arguments->training.lr = 1e-3;
  arguments->training.schedule = Schedule::kCosine;
  arguments->training.epochs = 1;
  arguments->training.add_data(flags);
  flags.add("model", arguments->from, "A Hugging Face folder to go on from (default: none, from scratch)");
  flags.add("model-config", arguments->config, "config.json of the model to make, or its folder (default: none)");
  flags.add(
      "tokenizer", arguments->tokenizer, "A folder whose tokenizer is used, and copied to --output (default: none)");
  flags
      .add(
          "train-tokenizer", arguments->tokenizer_vocab_size,
          "Train a sentencepiece tokenizer of so many tokens on --data first (default: none)")
      .between(1, kMaxVocabulary);
  arguments->training.add(flags);
  arguments->model.add_device(flags);
  arguments->model.add_threads(flags);
  arguments->model.add_loading(flags);
  return [arguments, &flags] { return pretrain(*arguments, flags); };
}

} // namespace rora::cli

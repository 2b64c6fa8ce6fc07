#include "adapter_flags.h"
#include "command.h"
#include "methods.h"
#include "model_flags.h"
#include "rank_report.h"
#include "start.h"
#include "training_run.h"

#include "common/progress_bar.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/mapped_files.h>
#include <rora/model/decoder_options.h>

#include <torch/utils.h>

#include <algorithm>
#include <iostream>
#include <optional>

namespace rora::cli {
namespace {

struct Arguments {
  ModelFlags model;
  AdapterFlags adapter;
  StartFlags start;
  TrainingFlags training;
  bool portable = false;
};

/// What an adapter computes with its tensors.
const std::vector<std::string> kAdapterFlags{"rank",    "alpha",        "scaling",        "dora",
                                             "dropout", "dora-dropout", "target-modules", "init-adapter"};

/// With those of rows where a run trains any, and of the start and the method where they are others than ever:
/// checkpoints from before there were such flags know nothing of them.
std::vector<std::string> identity(const AdapterFlags& adapter, const StartFlags& start) {
  std::vector<std::string> names = kAdapterFlags;
  if (start.initializer()) {
    names.push_back("init");
    const std::vector<std::string> changed = start.changed();
    for (const auto& [flag, owners] : start_flag_owners()) {
      const bool newer = flag.starts_with("gora-adaptive-");
      const bool counts = !newer || std::find(changed.begin(), changed.end(), flag) != changed.end();
      if (owns(start.init, flag) && flag != "capture-memory" && counts) {
        names.push_back(flag);
      }
    }
  }
  if (adapter.method) {
    names.push_back("method");
  }
  if (!adapter.modules_to_save.empty() || !adapter.trainable_token_indices.empty()) {
    names.insert(names.end(), {"modules-to-save", "trainable-token-indices", "ensure-weight-tying"});
  }
  return names;
}

/// The modules' ranks, where the start gave them others than the one that was asked for.
std::vector<ModuleRank> own_ranks(const StartFlags& start, const CausalLM& model, const AdapterOptions& options) {
  if (!start.initializer()) {
    return {};
  }
  std::vector<ModuleRank> ranks = module_ranks(model, target_modules(*model, options));
  const bool any = std::any_of(
      ranks.begin(), ranks.end(), [&](const ModuleRank& each) { return each.rank != options.low_rank().rank(); });
  return any ? ranks : std::vector<ModuleRank>();
}

/// The flags of how the adapter begins, with the start that --method brings. Throws `UsageError`.
StartFlags start_flags(const Arguments& arguments) {
  StartFlags start = arguments.start;
  const std::string init = arguments.adapter.init();
  if (init != "default") {
    if (start.init != "default") {
      throw UsageError("--init: --method " + *arguments.adapter.method + " begins in a way of its own");
    }
    start.init = init;
  }
  start.follow(arguments.training.lr, arguments.training.warmup_steps);
  start.check();
  return start;
}

int finetune(Arguments& arguments, const Flags& flags) {
  TrainingFlags& training = arguments.training;
  training.check();
  flags.require_utf8();
  arguments.model.check_cuda_graph(training.cuda_graph);
  const StartFlags begin = start_flags(arguments);
  if (begin.initializer() && arguments.adapter.init_adapter && !arguments.adapter.method) {
    throw UsageError("--init says how a new adapter begins, and --init-adapter brings one");
  }
  RunFolder folder(training.output, training.resume, {"adapter_config.json", "adapter_model.safetensors"});
  if (!training.resume) {
    require_neither_model_nor_adapter(training.output);
  }
  if (folder.finished()) {
    std::cout << folder.path().string()
              << " holds a finished run, whatever was asked for now: there is nothing to go on "
              << "with; --init-adapter begins another run from its adapter" << std::endl;
    return 0;
  }
  arguments.model.open_device();
  const AdapterOptions options = arguments.adapter.resolve(flags);
  if (begin.initializer() && options.kind()) {
    throw UsageError(
        "--init says how low-rank adapters begin, and --method " + *arguments.adapter.method + " has none");
  }
  std::vector<std::shared_ptr<TrainingHook>> hooks;
  if (auto hook = arguments.adapter.hook()) {
    if (training.cuda_graph) {
      throw UsageError("--cuda-graph: --method " + *arguments.adapter.method + " does more at a step than graphs hold");
    }
    hooks.push_back(std::move(hook));
  }
  const DecoderOptions config = arguments.model.read_config();
  LazyTokenizer tokenizer([&] { return arguments.model.load_tokenizer(); });
  TrainingData data = load_training_data(
      training, training.read_data(), tokenizer, config.vocab_size(), arguments.model.model,
      arguments.adapter.init_adapter);
  const Prompts prompts = data.prompts;
  const bool has_chats = data.has_chats;

  CausalLM model = arguments.model.load();
  torch::manual_seed(static_cast<uint64_t>(training.seed));
  Start start(begin, folder.path() / "start.safetensors", training.resume);
  arguments.adapter.attach(model, options, [&] {
    std::optional<examples::ProgressBar> bar;
    start.attach(
        model, options, data.train.examples, training.trainer_options().batches(), [&](int64_t done, int64_t of) {
          if (!bar) {
            bar.emplace("capture", of);
          }
          bar->update(done);
        });
  });
  training.prepare_optimizer(*model, flags.given("clip"));
  const auto save = [&](const std::filesystem::path& target) {
    check_mapped_files(); // an adapter of other weights than those that the run began with is worth nothing
    save_adapter(*model, target, SaveAdapterOptions().base_model(arguments.model.model).portable(arguments.portable));
    write_chat_template(prompts, has_chats, target);
  };
  if (!start.note().empty()) {
    std::cout << start.note() << "\n";
  }
  const std::vector<ModuleRank> ranks = own_ranks(begin, model, options);
  if (!ranks.empty()) {
    std::cout << begin.init << ": " << rank_summary(ranks, options.low_rank().rank()) << "\n";
  }
  const auto begun = [&](int64_t restored) {
    start.require_kept(restored);
    start.keep();
    if (!ranks.empty()) {
      write_ranks(ranks, folder.path());
    }
  };
  return TrainingRun{"finetune", &flags, &training, model, std::move(data), save, identity(arguments.adapter, begin),
                     begun,      hooks}
      .run(folder, tokenizer.loaded());
}

} // namespace

Run add_finetune(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  arguments->model.add_model(flags);
  arguments->training.add_data(flags);
  arguments->adapter.add(flags);
  arguments->adapter.add_method(flags);
  arguments->start.add(flags);
  arguments->training.add(flags);
  arguments->training.add_fine_tuning(flags);
  arguments->training.add_optimizer(flags);
  flags.add(
      "portable", arguments->portable,
      "Write the scale as alpha/rank, for readers that ignore use_rslora: the same adapter (default: off)");
  arguments->model.add_dtype(flags);
  arguments->model.add_device(flags);
  arguments->model.add_threads(flags);
  arguments->model.add_pack_weights(flags);
  arguments->model.add_tokenizer(flags);
  arguments->model.add_loading(flags);
  return [arguments, &flags] { return finetune(*arguments, flags); };
}

} // namespace rora::cli

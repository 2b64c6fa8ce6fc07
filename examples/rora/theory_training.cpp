#include "theory_training.h"

#include "training_run.h"

#include "common/progress_bar.h"

#include <rora/adapters/attach.h>
#include <rora/training/trainer.h>

#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace rora::cli {
namespace {

constexpr int64_t kProbeExamples = 4;
/// Of each example: what enters every projection is kept for them.
constexpr size_t kProbeTokens = 32;

/// 1, 2, 5, 10 … and the last.
std::set<int64_t> measured_steps(int64_t last) {
  std::set<int64_t> steps{last};
  for (int64_t power = 1; power <= last; power *= 10) {
    for (const int64_t factor : {1, 2, 5}) {
      if (factor * power <= last) {
        steps.insert(factor * power);
      }
    }
  }
  return steps;
}

ModelInput input_of(const Batch& batch) {
  ModelInput input;
  input.input_ids = batch.input_ids;
  input.attention_mask = batch.attention_mask;
  return input;
}

/// The last examples, which are taken off what is trained on.
ModelInput take_probe(std::vector<Example>& examples) {
  std::vector<Example> probe(examples.end() - kProbeExamples, examples.end());
  examples.resize(examples.size() - kProbeExamples);
  std::vector<std::vector<int64_t>> rows;
  for (size_t i = 0; i < probe.size(); ++i) {
    probe[i].input_ids.resize(std::min(probe[i].input_ids.size(), kProbeTokens));
    probe[i].labels.resize(probe[i].input_ids.size());
    rows.push_back({static_cast<int64_t>(i)});
  }
  return input_of(make_batch(probe, rows));
}

AdapterOptions adapter_options(int64_t rank, double factor) {
  // α/√r of this α is the factor, whatever scale it is of.
  return AdapterOptions().low_rank(LowRankOptions().rank(rank).alpha(factor * std::sqrt(static_cast<double>(rank))));
}

} // namespace

void GrowthFlags::add(Flags& flags) {
  flags.add(
      "model", model,
      "A model's Hugging Face folder, to measure trainings of it at each rank and scale (default: none)");
  flags.add("data", data, "Files of records to train it on");
  flags.add("steps", steps, "Steps of each training").between(1, kMaxCount);
  flags.add("lr", lr, "Learning rate of the trainings").positive();
  flags.add("batch-size", batch_size, "Examples a batch").between(1, kMaxCount);
  flags.add("max-length", max_length, "Longer examples are cut to so many tokens").between(2, kMaxCount);
}

void GrowthFlags::check() const {
  if (model.has_value() != !data.empty()) {
    throw UsageError("--model and --data go together: trainings are measured by both");
  }
}

const GrowthRun& ModelGrowth::run(int64_t rank, const theory::RankScale& scale) const {
  return *std::find_if(runs.begin(), runs.end(), [&](const GrowthRun& each) {
    return each.rank == rank && each.scale.exponent == scale.exponent;
  });
}

ModelGrowth measure_model_growth(
    const GrowthFlags& flags, ModelFlags model_flags, const std::vector<int64_t>& ranks, double alpha, int64_t seed) {
  model_flags.model = *flags.model;
  const DecoderOptions config = model_flags.read_config();
  TrainingFlags training;
  training.data = flags.data;
  training.max_length = flags.max_length;
  LazyTokenizer tokenizer([&] { return model_flags.load_tokenizer(); });
  std::vector<Example> examples =
      load_training_data(training, training.read_data(), tokenizer, config.vocab_size(), model_flags.model)
          .train.examples;
  if (static_cast<int64_t>(examples.size()) <= kProbeExamples) {
    throw UsageError(
        "--data: " + std::to_string(kProbeExamples) + " examples are kept to measure on, and there are " +
        std::to_string(examples.size()));
  }
  const ModelInput probe = take_probe(examples);
  CausalLM model = model_flags.load();

  ModelGrowth growth;
  growth.model = *flags.model;
  growth.steps = flags.steps;
  growth.lr = flags.lr;
  growth.ranks = ranks;
  growth.modules = target_modules(*model, adapter_options(ranks[0], 1.0));
  std::sort(growth.modules.begin(), growth.modules.end()); // as measurements are
  const theory::ProjectionInputs inputs = theory::capture_inputs(model, growth.modules, probe);
  const auto batches = BatchOptions().batch_size(flags.batch_size).seed(static_cast<uint64_t>(seed));
  const Batch first = make_batch(examples, plan_epoch(examples, batches, 0)[0]);
  const auto gradients = theory::loss_gradients(model, growth.modules, input_of(first), first.labels);
  for (const int64_t rank : ranks) {
    for (const std::string& module : growth.modules) {
      const at::Tensor& x = inputs.at(module);
      growth.first_step[rank].push_back(theory::output_mean_square(
          theory::StepRule::kAdamW, theory::EntryDistribution::uniform(x.size(1)), rank, gradients.at(module),
          x.cpu()));
    }
  }

  const auto total = static_cast<int64_t>(ranks.size() * theory::kRankScales.size()) * flags.steps;
  examples::ProgressBar bar("trainings", total);
  for (const int64_t rank : ranks) {
    for (const theory::RankScale& scale : theory::kRankScales) {
      GrowthRun run;
      run.scale = scale;
      run.rank = rank;
      run.factor = scale.factor(alpha, rank);
      torch::manual_seed(static_cast<uint64_t>(seed));
      attach_adapters(*model, adapter_options(rank, run.factor));
      const int64_t done = static_cast<int64_t>(growth.runs.size()) * flags.steps;
      auto hook = std::make_shared<theory::GrowthHook>(inputs, measured_steps(flags.steps));
      {
        Trainer trainer(
            model, examples,
            TrainerOptions().lr(flags.lr).schedule(Schedule::kConstant).max_steps(flags.steps).batches(batches));
        trainer.add_hook(hook);
        int64_t taken = 0;
        trainer.set_callback([&](const StepMetrics& metrics) {
          taken = metrics.step;
          bar.update(done + taken, "rank " + std::to_string(rank) + " γ = " + scale.name);
        });
        try {
          trainer.train();
        } catch (const NotFiniteError&) {
          run.stopped_before = taken + 1; // a scale that is too large for the rate says so, and the others go on
        }
      }
      detach_adapters(*model);
      run.measured = hook->measured();
      growth.runs.push_back(std::move(run));
    }
  }
  bar.clear();
  return growth;
}

} // namespace rora::cli

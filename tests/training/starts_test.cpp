// Every start is trained, gone on with from what was stored of it, saved and loaded.

#include "adapters/initializers/support.h"
#include "support/test_data.h"
#include "trainer_support.h"

#include <rora/adapters/initializers/edora.h>
#include <rora/adapters/initializers/eva.h>
#include <rora/adapters/initializers/gora.h>
#include <rora/adapters/initializers/lora_ga.h>
#include <rora/adapters/initializers/lora_one.h>
#include <rora/adapters/initializers/lora_sb.h>
#include <rora/adapters/initializers/olora.h>
#include <rora/adapters/initializers/singular_vectors.h>
#include <rora/adapters/peft_folder.h>

namespace rora {
namespace {

using namespace rora::testing;

struct Start {
  std::string name;
  std::function<std::shared_ptr<const Initializer>()> make;
  bool dora = false;
  bool core = false;
};

class Starts : public ::testing::TestWithParam<Start> {
 protected:
  AdapterOptions options_with(std::shared_ptr<const Initializer> initializer) const {
    auto options = beginning_with(std::move(initializer));
    return options.low_rank(LowRankOptions(options.low_rank()).dora(GetParam().dora).core(GetParam().core));
  }

  /// A model with the start, of which `start` then holds what an earlier run stored, or stores it there.
  DecoderForCausalLM begin(const std::filesystem::path& start) const {
    auto model = tiny_llama();
    at::manual_seed(7);
    if (std::filesystem::exists(start)) {
      attach_adapters(*model, options_with(stored_start(GetParam().make())), kDefaultAdapter, load_statistics(start));
      return model;
    }
    const auto options = options_with(GetParam().make());
    attach_adapters(*model, options, kDefaultAdapter, captured(model, options));
    save_statistics(start, start_statistics(*model, target_modules(*model, options)));
    return model;
  }

  /// Trains it, at most until `stop_after`, going on with what is in the folder.
  DecoderForCausalLM train(const std::filesystem::path& folder, int64_t stop_after = 1000) const {
    auto model = begin(folder / "start");
    Trainer trainer(model, counting(24), options(4).save_every(2).output(folder).resume(true));
    trainer.set_save([&](const std::filesystem::path& path) { save_adapter(*model, path); });
    trainer.set_callback([&](const StepMetrics& metrics) {
      if (metrics.step >= stop_after) {
        trainer.request_stop();
      }
    });
    trainer.train();
    return model;
  }

  static at::Tensor logits(CausalLM model) {
    at::NoGradGuard no_grad;
    return model->forward(counting_batch(1).input);
  }
};

TEST_P(Starts, LearnAndGoOnBitForBitFromWhatWasStored) {
  const TemporaryFolder whole, parts;
  auto model = train(whole.path());
  auto stopped = train(parts.path(), 3);
  EXPECT_FALSE(at::equal(flat(stopped), flat(model)));
  auto resumed = train(parts.path());
  EXPECT_TRUE(at::equal(flat(resumed), flat(model)));
  EXPECT_TRUE(at::equal(logits(resumed), logits(model)));
}

TEST_P(Starts, AreLoadedOnTheUntouchedBaseAsTheyWereSaved) {
  const TemporaryFolder folder;
  auto model = train(folder.path());
  save_adapter(*model, folder / "adapter");
  auto other = tiny_llama();
  load_adapter(*other, folder / "adapter");
  EXPECT_LT(relative_error(logits(other), logits(model)), 1e-4);
  EXPECT_GT(relative_error(logits(other), logits(tiny_llama())), 1e-2) << "the adapter changes what is computed";
  save_adapter(*other, folder / "again");
  auto third = tiny_llama();
  load_adapter(*third, folder / "again");
  EXPECT_TRUE(at::equal(logits(third), logits(other)));
}

TEST_P(Starts, GiveTheBaseBackBitForBit) {
  const at::Tensor frozen = logits(tiny_llama());
  const TemporaryFolder folder;
  auto model = begin(folder / "start");
  detach_adapters(*model);
  EXPECT_TRUE(at::equal(logits(model), frozen));
}

TEST_P(Starts, AreTheSameFromWhatWasStored) {
  const TemporaryFolder folder;
  auto model = begin(folder / "start");
  auto again = begin(folder / "start");
  EXPECT_TRUE(at::equal(flat(again), flat(model)));
  EXPECT_TRUE(at::equal(logits(again), logits(model)));
}

INSTANTIATE_TEST_SUITE_P(
    All, Starts,
    ::testing::Values(
        Start{"gora", [] { return gora(GoRAOptions().min_rank(2).max_rank(8)); }},
        Start{"gora_dora", [] { return gora(GoRAOptions().min_rank(2).max_rank(8)); }, true},
        Start{"lora_ga", [] { return lora_ga(); }}, Start{"lora_ga_dora", [] { return lora_ga(); }, true},
        Start{"lora_one", [] { return lora_one(); }}, Start{"pissa", [] { return pissa(); }},
        Start{"pissa_dora", [] { return pissa(); }, true}, Start{"milora", [] { return milora(); }},
        Start{"olora", [] { return olora(); }}, Start{"eva", [] { return eva(); }},
        Start{"eva_dora", [] { return eva(); }, true}, Start{"lora_sb", [] { return lora_sb(1e-3); }, false, true},
        Start{"lora_sb_dora", [] { return lora_sb(1e-3); }, true, true},
        Start{"edora", [] { return edora(); }, true, true}, Start{"lora_xs", [] { return edora(); }, false, true},
        Start{"pissa_core", [] { return pissa(); }, false, true}),
    [](const auto& info) { return info.param.name; });

} // namespace
} // namespace rora

// Data parallel training of one's own, in one file: a trainer in each of several threads.
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/evaluation/perplexity.h>
#include <rora/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <barrier>
#include <thread>

namespace rora {
namespace {

/// Where the threads of one training meet.
struct Meeting {
  explicit Meeting(int64_t workers) : barrier(workers), parts(static_cast<size_t>(workers)) {}
  std::barrier<> barrier;
  std::vector<at::Tensor> parts; ///< of each worker
};

class ThreadReducer : public Reducer {
 public:
  ThreadReducer(std::shared_ptr<Meeting> meeting, int64_t rank) : meeting_(std::move(meeting)), rank_(rank) {}

  int64_t rank() const override {
    return rank_;
  }
  int64_t world_size() const override {
    return std::ssize(meeting_->parts);
  }
  void sum_gradients(const at::Tensor& gradients) override {
    sum(gradients);
  }
  void sum_figures(const at::Tensor& figures) override {
    sum(figures);
  }

 private:
  void sum(const at::Tensor& own) {
    meeting_->parts[static_cast<size_t>(rank_)] = own;
    meeting_->barrier.arrive_and_wait();
    at::Tensor sum = meeting_->parts[0].clone();
    for (size_t i = 1; i < meeting_->parts.size(); ++i) {
      sum += meeting_->parts[i]; // in the same order for all, so that all have the same bits
    }
    meeting_->barrier.arrive_and_wait(); // all have read before any writes
    own.copy_(sum);
  }

  std::shared_ptr<Meeting> meeting_;
  int64_t rank_;
};

/// Sequences of many lengths, so that batches weigh unlike.
std::vector<Example> counting(int64_t count) {
  std::vector<Example> examples;
  for (int64_t i = 0; i < count; ++i) {
    Example example;
    for (int64_t place = 0; place < 4 + (5 * i) % 9; ++place) {
      example.input_ids.push_back((3 * i + place) % 32);
    }
    example.labels = example.input_ids;
    examples.push_back(example);
  }
  return examples;
}

struct Result {
  DecoderForCausalLM model = testing::tiny_llama();
  at::Tensor values;
  std::vector<StepMetrics> metrics;
  TrainingResult training;
  int64_t start = 0;
};

/// Adapters with dropout, trained by `workers` threads; the first of them is asked to stop after `stop_after` steps.
std::vector<Result> train(int64_t workers, TrainerOptions options, int64_t stop_after = 1000) {
  const auto meeting = std::make_shared<Meeting>(workers);
  std::vector<Result> results(static_cast<size_t>(workers));
  std::vector<std::unique_ptr<Trainer>> trainers;
  for (int64_t rank = 0; rank < workers; ++rank) {
    Result& result = results[static_cast<size_t>(rank)];
    at::manual_seed(3);
    attach_adapters(*result.model, AdapterOptions().low_rank(LowRankOptions().rank(4).alpha(8).dropout(0.2)));
    result.model->checkpointing = Checkpointing::kFull; // draws a layer's masks once more, in backward
    if (workers > 1) {
      options.reducer(std::make_shared<ThreadReducer>(meeting, rank));
    }
    trainers.push_back(std::make_unique<Trainer>(result.model, counting(22), options));
    Trainer& trainer = *trainers.back();
    trainer.set_validation(counting(5));
    trainer.set_save([&result](const std::filesystem::path& path) { save_adapter(*result.model, path); });
    trainer.set_callback([&result, &trainer, rank, stop_after](const StepMetrics& metrics) {
      result.metrics.push_back(metrics);
      if (rank == 0 && metrics.step == stop_after) {
        trainer.request_stop();
      }
    });
  }
  std::vector<std::thread> threads;
  for (size_t i = 0; i < trainers.size(); ++i) {
    threads.emplace_back([&trainer = *trainers[i], &result = results[i]] {
      result.start = trainer.restore();
      result.training = trainer.train();
      result.values = trainer.parameters().values().clone();
    });
  }
  for (std::thread& each : threads) {
    each.join();
  }
  return results;
}

TrainerOptions options(int64_t grad_accum) {
  return TrainerOptions()
      .lr(1e-2)
      .epochs(2)
      .grad_accum(grad_accum)
      .eval_every(3)
      .batches(BatchOptions().batch_size(2).seed(5)); // 11 batches an epoch: the last step has less than the others
}

TEST(ThreadReducer, TwoWorkersAreOneThatTakesTwiceAsManyBatchesAStep) {
  const auto two = train(2, options(1));
  const auto one = train(1, options(2));
  EXPECT_TRUE(at::equal(two[0].values, two[1].values));
  EXPECT_TRUE(at::equal(two[0].values, one[0].values)); // a sum of two is the same in either order
  ASSERT_EQ(two[0].metrics.size(), one[0].metrics.size());
  for (size_t i = 0; i < one[0].metrics.size(); ++i) {
    for (const Result& worker : two) {
      EXPECT_EQ(worker.metrics[i].loss, one[0].metrics[i].loss);
      EXPECT_EQ(worker.metrics[i].tokens, one[0].metrics[i].tokens);
      EXPECT_EQ(worker.metrics[i].labelled_tokens, one[0].metrics[i].labelled_tokens);
      EXPECT_EQ(worker.metrics[i].eval_loss, one[0].metrics[i].eval_loss);
    }
  }
}

TEST(ThreadReducer, ThreeWorkersAreOneUpToRounding) {
  const auto three = train(3, options(1));
  const auto one = train(1, options(3));
  EXPECT_TRUE(at::equal(three[0].values, three[2].values));
  EXPECT_TRUE(at::allclose(three[0].values, one[0].values, /*rtol=*/1e-3, /*atol=*/1e-5));
}

TEST(ThreadReducer, TrainsAndWhatItSavesLoads) {
  const testing::TemporaryFolder folder;
  const auto results = train(2, options(1).epochs(6).eval_every(1));
  EXPECT_LT(results[0].metrics.back().loss, 0.8 * results[0].metrics.front().loss);
  save_adapter(*results[1].model, folder.path());
  auto loaded = testing::tiny_llama();
  load_adapter(*loaded, folder.path());
  EXPECT_EQ(
      evaluate_perplexity(loaded, counting(5), 2).loss, evaluate_perplexity(results[0].model, counting(5), 2).loss);
}

TEST(ThreadReducer, AllStopWhenOneIsAskedToAndGoOnBitForBit) {
  const auto whole = train(2, options(1));
  const testing::TemporaryFolder folder;
  const auto resumable = options(1).output(folder.path()).resume(true);
  const auto first = train(2, resumable, /*stop_after=*/4);
  const auto second = train(2, resumable);
  for (size_t worker = 0; worker < 2; ++worker) {
    EXPECT_TRUE(first[worker].training.interrupted);
    EXPECT_EQ(first[worker].training.steps, 4);
    EXPECT_EQ(second[worker].start, 4);
    EXPECT_TRUE(at::equal(second[worker].values, whole[worker].values));
  }
}

TEST(ThreadReducer, WorkersThatBeginUnlikeAreRefused) {
  const auto meeting = std::make_shared<Meeting>(2);
  std::vector<std::thread> threads;
  std::vector<DecoderForCausalLM> models;
  for (uint64_t rank = 0; rank < 2; ++rank) {
    models.push_back(testing::tiny_llama());
    at::manual_seed(rank); // another A
    attach_adapters(*models.back(), AdapterOptions().low_rank(LowRankOptions().rank(4).alpha(8)));
  }
  for (int64_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      Trainer trainer(
          models[static_cast<size_t>(rank)], counting(22),
          options(1).reducer(std::make_shared<ThreadReducer>(meeting, rank)));
      EXPECT_THROW(trainer.train(), c10::ValueError);
    });
  }
  for (std::thread& each : threads) {
    each.join();
  }
}

} // namespace
} // namespace rora

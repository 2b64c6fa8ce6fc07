#include "beam_search.h"

#include "decoding_state.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace rora::detail {
namespace {

struct Hypothesis {
  std::vector<int64_t> tokens;
  double log_likelihood = 0.0;
};

/// The beams of one prompt: those that go on, and the best of those that have ended.
class Beam {
 public:
  Beam(int64_t width, double length_penalty) : width_(width), length_penalty_(length_penalty) {
    running_.resize(static_cast<size_t>(width));
    // All rows begin alike: only the first may branch, or every beam would be the same.
    for (size_t i = 1; i < running_.size(); ++i) {
      running_[i].log_likelihood = -std::numeric_limits<double>::infinity();
    }
  }

  const std::vector<Hypothesis>& running() const {
    return running_;
  }

  /// Takes the best continuations of a step, best first: (beam, token, log-likelihood), at least twice as many as
  /// beams. Returns the row that each beam goes on from.
  template <typename Candidates>
  std::vector<int64_t> advance(const Candidates& candidates, const std::vector<int64_t>& stops) {
    std::vector<Hypothesis> next;
    std::vector<int64_t> origins;
    size_t place = 0;
    for (const auto& [origin, token, log_likelihood] : candidates) {
      Hypothesis longer = running_[static_cast<size_t>(origin)];
      longer.tokens.push_back(token);
      longer.log_likelihood = log_likelihood;
      const bool stopped = std::find(stops.begin(), stops.end(), token) != stops.end();
      if (stopped && place < static_cast<size_t>(width_)) {
        finish(std::move(longer));
      } else if (!stopped && next.size() < static_cast<size_t>(width_)) {
        next.push_back(std::move(longer));
        origins.push_back(origin);
      }
      ++place;
    }
    running_ = std::move(next);
    return origins;
  }

  /// Whether no running beam can overtake the worst of the finished ones any more, as far as its present score tells.
  bool done() const {
    return finished_.size() >= static_cast<size_t>(width_) && score(running_.front()) <= score(finished_.back());
  }

  /// The best of all, the running ones counting as ended at the length limit.
  std::vector<int64_t> best(bool is_done) {
    if (!is_done) {
      for (const Hypothesis& each : running_) {
        finish(each);
      }
    }
    return finished_.front().tokens;
  }

 private:
  double score(const Hypothesis& hypothesis) const {
    return hypothesis.log_likelihood / std::pow(static_cast<double>(hypothesis.tokens.size()), length_penalty_);
  }

  void finish(Hypothesis hypothesis) {
    finished_.push_back(std::move(hypothesis));
    std::stable_sort(finished_.begin(), finished_.end(), [this](const Hypothesis& a, const Hypothesis& b) {
      return score(a) > score(b);
    });
    if (finished_.size() > static_cast<size_t>(width_)) {
      finished_.pop_back();
    }
  }

  int64_t width_;
  double length_penalty_;
  std::vector<Hypothesis> running_;
  std::vector<Hypothesis> finished_; // best first
};

struct Candidate {
  int64_t origin;
  int64_t token;
  double log_likelihood;
};

/// The best continuations of one prompt's beams, from log-probabilities `[beams, vocab]`.
std::vector<Candidate> best_continuations(const Beam& beam, const at::Tensor& log_probabilities, int64_t count) {
  std::vector<double> sums;
  for (const Hypothesis& each : beam.running()) {
    sums.push_back(each.log_likelihood);
  }
  const int64_t vocab = log_probabilities.size(1);
  const at::Tensor totals = log_probabilities.to(at::kDouble).add(at::tensor(sums, at::kDouble).unsqueeze(1)).flatten();
  const auto [values, indices] = totals.topk(std::min(count, totals.numel()));
  std::vector<Candidate> candidates;
  for (int64_t i = 0; i < values.numel(); ++i) {
    const int64_t index = indices[i].item<int64_t>();
    candidates.push_back({index / vocab, index % vocab, values[i].item<double>()});
  }
  return candidates;
}

} // namespace

std::vector<std::vector<int64_t>> beam_search(
    CausalLM model, const std::vector<std::vector<int64_t>>& prompts, const GenerationOptions& options,
    const std::vector<int64_t>& stops) {
  const int64_t width = options.num_beams();
  // Each stop token may take one of the best places of a beam: enough candidates are left for the beams to go on.
  const int64_t count = width * std::max<int64_t>(2, 1 + static_cast<int64_t>(stops.size()));
  std::vector<Beam> beams(prompts.size(), Beam(width, options.length_penalty()));
  std::vector<bool> done(prompts.size(), false);
  std::vector<size_t> active(prompts.size()); // the prompt of each group of rows
  for (size_t i = 0; i < active.size(); ++i) {
    active[i] = i;
  }
  DecodingState state(model, prompts, width);
  for (int64_t step = 0; step < options.max_new_tokens() && !active.empty(); ++step) {
    const at::Tensor log_probabilities = state.logits().to(at::kFloat).log_softmax(-1).cpu();
    std::vector<int64_t> rows, next;
    std::vector<size_t> still;
    for (size_t group = 0; group < active.size(); ++group) {
      Beam& beam = beams[active[group]];
      const auto first = static_cast<int64_t>(group) * width;
      const auto candidates = best_continuations(beam, log_probabilities.narrow(0, first, width), count);
      const auto origins = beam.advance(candidates, stops);
      done[active[group]] = beam.running().empty() || beam.done();
      if (done[active[group]]) {
        continue;
      }
      still.push_back(active[group]);
      for (size_t i = 0; i < origins.size(); ++i) {
        rows.push_back(first + origins[i]);
        next.push_back(beam.running()[i].tokens.back());
      }
    }
    active = std::move(still);
    if (!active.empty() && step + 1 < options.max_new_tokens()) {
      state.select(rows);
      state.append(next);
    }
  }
  std::vector<std::vector<int64_t>> continuations;
  for (size_t i = 0; i < beams.size(); ++i) {
    continuations.push_back(beams[i].best(done[i]));
  }
  return continuations;
}

} // namespace rora::detail

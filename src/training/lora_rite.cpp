#include <rora/training/lora_rite.h>

#include "pair_algebra.h"
#include "unpaired_adamw.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace rora {
namespace {

AdamWOptions adamw_options(const LoraRiteOptions& options) {
  return AdamWOptions()
      .beta1(options.beta1())
      .beta2(options.beta2())
      .eps(options.adamw_eps())
      .weight_decay(options.weight_decay());
}

/// β̂ of update number `step`, whose averages need no correction of their bias: 0 at the first.
double unbiased(double beta, int64_t step) {
  const auto t = static_cast<double>(step);
  return beta * (1.0 - std::pow(beta, t - 1.0)) / (1.0 - std::pow(beta, t));
}

/// Gives out views of a flat buffer, one behind the other.
class Views {
 public:
  explicit Views(at::Tensor flat) : flat_(std::move(flat)) {}
  at::Tensor next(int64_t rows, int64_t columns) {
    const at::Tensor view = flat_.narrow(0, taken_, rows * columns).view({rows, columns});
    taken_ += rows * columns;
    return view;
  }

 private:
  at::Tensor flat_;
  int64_t taken_ = 0;
};

} // namespace

void LoraRiteOptions::validate() const {
  adamw_options(*this).validate();
  const auto check = [](const char* name, double value) {
    TORCH_CHECK_VALUE(value >= 0.0 && std::isfinite(value), name, " must be at least 0 and finite, not ", value);
  };
  TORCH_CHECK_VALUE(eps_ > 0.0 && std::isfinite(eps_), "eps must be positive and finite, not ", eps_);
  check("clip", clip_);
  check("skip", skip_);
  TORCH_CHECK_VALUE(hold_a_ >= 0, "hold_a must be at least 0, not ", hold_a_);
}

LoraRite::LoraRite(ParameterTable& parameters, const LoraRiteOptions& options)
    : Optimizer(parameters), options_(options) {
  options.validate();
  detail::require_pairs(parameters, "LoRA-RITE");
  unpaired_ = std::make_unique<detail::UnpairedAdamW>(parameters, adamw_options(options));
  make_state();
}

LoraRite::~LoraRite() = default;

void LoraRite::make_state() {
  struct Sizes {
    int64_t rows, rank; ///< of the tall factor, and of its R
  };
  const auto sizes = [](int64_t rows, int64_t columns) { return Sizes{rows, std::min(rows, columns)}; };
  std::vector<std::array<Sizes, 2>> all;
  int64_t momentum = 0, second_moment = 0, basis = 0;
  for (const ParameterPair& pair : parameters().pairs()) {
    const at::Tensor& a = parameters().entries()[pair.a].tensor;
    const at::Tensor& b = parameters().entries()[pair.b].tensor;
    all.push_back({sizes(a.size(1), a.size(0)), sizes(b.size(0), b.size(1))});
    pairs_.push_back({Factor{pair.a, /*is_a=*/true}, Factor{pair.b, /*is_a=*/false}});
    for (size_t i = 0; i < 2; ++i) {
      const Sizes &own = all.back()[i], &other = all.back()[1 - i];
      momentum += own.rows * other.rank;
      second_moment += other.rank * other.rank;
      basis += own.rows * own.rank;
    }
  }
  const auto options = parameters().values().options();
  Views momenta(momentum_ = at::zeros({momentum}, options));
  Views second_moments(second_moment_ = at::zeros({second_moment}, options));
  Views bases(basis_ = at::zeros({basis}, options));
  for (size_t k = 0; k < pairs_.size(); ++k) {
    for (size_t i = 0; i < 2; ++i) {
      const Sizes &own = all[k][i], &other = all[k][1 - i];
      pairs_[k][i].momentum = momenta.next(own.rows, other.rank);
      pairs_[k][i].second_moment = second_moments.next(other.rank, other.rank);
      pairs_[k][i].basis = bases.next(own.rows, own.rank);
    }
  }
}

std::vector<std::pair<std::string, at::Tensor>> LoraRite::state() const {
  std::vector<std::pair<std::string, at::Tensor>> state{
      {"momentum", momentum_}, {"second_moment", second_moment_}, {"basis", basis_}};
  unpaired_->add_state(state);
  return state;
}

std::map<std::string, double> LoraRite::fingerprint() const {
  return {
      {"beta1", options_.beta1()},
      {"beta2", options_.beta2()},
      {"eps", options_.eps()},
      {"weight_decay", options_.weight_decay()},
      {"rite_clip", options_.clip()}, // the trainer has a clip of its own
      {"skip", options_.skip()},
      {"hold_a", static_cast<double>(options_.hold_a())},
      {"adamw_eps", options_.adamw_eps()}};
}

at::Tensor LoraRite::tall(const Factor& factor, const at::Tensor& flat) const {
  const at::Tensor own = ParameterTable::slice(parameters().entries()[factor.entry], flat);
  return factor.is_a ? own.t() : own;
}

/// Q, R⁺ and u of both factors.
LoraRite::PartPair LoraRite::split(const FactorPair& pair, const at::Tensor& gradients) const {
  PartPair parts;
  for (size_t i = 0; i < 2; ++i) {
    const auto [q, r] = at::linalg_qr(tall(pair[i], parameters().values()));
    parts[i].q = q;
    parts[i].inverse = at::linalg_pinv(r);
  }
  for (size_t i = 0; i < 2; ++i) {
    const at::Tensor u = tall(pair[i], gradients).mm(parts[1 - i].inverse);
    const at::Tensor mean_square = u.square().mean();
    parts[i].unmagnified =
        options_.skip() > 0.0 ? at::where(mean_square > options_.skip() * options_.skip(), 0.0, u) : u;
  }
  return parts;
}

/// What all u are multiplied by.
at::Tensor LoraRite::clip_factor(const std::vector<PartPair>& parts) const {
  at::Tensor squared = at::zeros({}, parameters().values().options());
  for (const PartPair& each : parts) {
    squared += each[0].unmagnified.square().sum() + each[1].unmagnified.square().sum();
  }
  return options_.clip() > 0.0 ? options_.clip() / squared.sqrt().clamp_min(options_.clip()) : at::ones_like(squared);
}

/// One factor's moments and values, from its u.
void LoraRite::advance(
    const Factor& factor, const Part& own, const Part& other, const Factor& other_factor, double rate) const {
  const at::Tensor& u = own.unmagnified;
  const at::Tensor moved = other.q.t().mm(other_factor.basis); // P
  const double beta1 = unbiased(options_.beta1(), steps), beta2 = unbiased(options_.beta2(), steps);
  const at::Tensor& v = factor.second_moment;
  const at::Tensor average =
      beta2 * moved.mm(v).mm(moved.t()) + (1.0 - beta2) / static_cast<double>(u.size(0)) * u.t().mm(u);
  v.copy_(0.5 * (average + average.t()));
  const detail::Spectrum spectrum = detail::spectrum(v);
  const at::Tensor direction = u.mm(spectrum.with((spectrum.values.sqrt() + options_.eps()).reciprocal()));
  factor.momentum.copy_(beta1 * factor.momentum.mm(moved.t()) + (1.0 - beta1) * direction);
  if (factor.is_a && steps <= options_.hold_a()) {
    return;
  }
  const ParameterGroup& group = parameters().groups()[parameters().entries()[factor.entry].group].group;
  const double learning_rate = rate * group.lr_factor;
  const at::Tensor values = tall(factor, parameters().values());
  values.mul_(1.0 - learning_rate * group.weight_decay.value_or(options_.weight_decay()));
  values.sub_(factor.momentum.mm(other.inverse.t()), learning_rate);
}

void LoraRite::update(double learning_rate, const at::Tensor& left_out) {
  at::NoGradGuard no_grad;
  if (detail::is_set(left_out)) {
    return;
  }
  const at::Tensor& gradients = parameters().gradients();
  std::vector<PartPair> parts;
  for (const FactorPair& pair : pairs_) {
    parts.push_back(split(pair, gradients));
  }
  const at::Tensor factor = clip_factor(parts);
  for (size_t k = 0; k < pairs_.size(); ++k) {
    for (Part& part : parts[k]) {
      part.unmagnified.mul_(factor);
    }
    for (size_t i = 0; i < 2; ++i) {
      advance(pairs_[k][i], parts[k][i], parts[k][1 - i], pairs_[k][1 - i], learning_rate);
    }
    for (size_t i = 0; i < 2; ++i) { // both factors have read the other's
      pairs_[k][i].basis.copy_(parts[k][i].q);
    }
    parts[k] = {};
  }
  unpaired_->update(parameters(), steps, learning_rate);
}

OptimizerFactory lora_rite(const LoraRiteOptions& options) {
  return [options](ParameterTable& parameters) { return std::make_unique<LoraRite>(parameters, options); };
}

} // namespace rora

#pragma once

#include "text/jinja/value.h"

#include <ctime>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace rora::detail::jinja {

/// The names of a part of a template that has its own: a loop's body, a macro's. A macro keeps the scope that it was
/// made in alive.
class Scope {
 public:
  explicit Scope(std::shared_ptr<Scope> parent) : parent_(std::move(parent)) {}

  /// An undefined value where the name is nowhere.
  Value find(const std::string& name) const;
  void set(const std::string& name, Value value) {
    values_[name] = std::move(value);
  }

 private:
  std::shared_ptr<Scope> parent_;
  std::unordered_map<std::string, Value> values_;
};

using ScopePointer = std::shared_ptr<Scope>;

/// What one rendering has: its budget, its output, the objects that it made.
class Run {
 public:
  /// A budget of that many units. `now` is what `strftime_now` tells, in local time.
  Run(size_t budget, std::time_t now) : budget_(budget), now_(now) {}

  /// Takes from the budget: one unit a step or a value made, one for 16 bytes of text. Throws `Failure` at its end.
  void charge(size_t units) {
    if (units > budget_) {
      fail_budget();
    }
    budget_ -= units;
  }
  void charge_text(size_t bytes) {
    charge(1 + bytes / 16);
  }

  /// An object that lives as long as the rendering.
  template <typename T, typename... Args>
  T* make(Args&&... args) {
    charge(16);
    auto object = std::make_unique<T>(std::forward<Args>(args)...);
    T* const pointer = object.get();
    objects_.push_back(std::move(object));
    return pointer;
  }

  void write(const std::string& text) {
    charge_text(text.size());
    output_ += text;
  }
  const std::string& output() const {
    return output_;
  }
  /// What `body` writes, instead of writing it.
  template <typename Body>
  std::string capture(Body body) {
    ++captures_;
    std::string outer = std::move(output_);
    output_.clear();
    body();
    std::swap(outer, output_);
    --captures_;
    return outer;
  }

  /// What `body` writes is what an assistant says. Throws `Failure` inside of a capture, whose place in the output is
  /// not known.
  template <typename Body>
  void generate(Body body) {
    if (captures_ > 0) {
      throw Failure("a generation block inside of a macro, a call, a filter or a set block is not supported");
    }
    const size_t begin = output_.size();
    body();
    generated_.emplace_back(begin, output_.size());
  }
  const std::vector<std::pair<size_t, size_t>>& generated() const {
    return generated_;
  }

  std::time_t now() const {
    return now_;
  }

  /// Held while something is evaluated that may go deeper. Throws `Failure` at 400 of them: each may take several
  /// frames of the processor's stack.
  class Depth {
   public:
    explicit Depth(Run& run) : run_(run) {
      if (++run_.depth_ > 400) {
        --run_.depth_;
        throw Failure(Failure::Kind::kTooMuch, "it goes deeper than 400 steps in each other");
      }
    }
    ~Depth() {
      --run_.depth_;
    }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Run& run_;
  };

 private:
  [[noreturn]] static void fail_budget();

  size_t budget_;
  std::time_t now_;
  int depth_ = 0;
  int captures_ = 0;
  std::string output_;
  std::vector<std::pair<size_t, size_t>> generated_;
  std::vector<std::unique_ptr<Object>> objects_;
};

/// `value.text()`, taken from the budget.
std::string printed(Run& run, const Value& value);

/// The items that a loop over the value goes through: of a sequence, the keys of a dictionary, the characters of a
/// string, none of an undefined value. Throws `Failure` for what Python cannot iterate over.
std::vector<Value> items_of(Run& run, const Value& value);

/// `value.name` and `value[key]`: what Jinja's `getattr` and `getitem` find, else an undefined value.
Value attribute(Run& run, const Value& value, const std::string& name);
Value item(Run& run, const Value& value, const Value& key);
/// `value[begin:end:step]`, each of which may be none.
Value slice(Run& run, const Value& value, const Value& begin, const Value& end, const Value& step);

/// `object(arguments)`.
Value call(Run& run, const Value& function, const Arguments& arguments);

/// A namespace: the one thing whose attributes a template may set.
class Namespace : public Object {
 public:
  std::string text() const override {
    return "<Namespace>";
  }
  Value attribute(const std::string& name) const override;
  void set(const std::string& name, Value value);

 private:
  std::unordered_map<std::string, Value> values_;
};

/// A function by a C++ function.
class Function : public Object {
 public:
  using Body = Value (*)(Run&, const Arguments&);
  Function(std::string name, Body body) : name_(std::move(name)), body_(body) {}
  std::string text() const override {
    return "<function " + name_ + ">";
  }
  Value call(Run& run, const Arguments& arguments) override {
    return body_(run, arguments);
  }
  bool is_callable() const override {
    return true;
  }

 private:
  std::string name_;
  Body body_;
};

} // namespace rora::detail::jinja

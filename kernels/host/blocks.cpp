#include "blocks.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace rora::kernels::cuda::host {
namespace {

constexpr int kWarp = 32;
constexpr int64_t kStackBytes = 128 << 10;
constexpr int64_t kExchangeBytes = 64;
constexpr int64_t kSharedAlignment = 128;
constexpr int kCopyBytes = 16;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

/// A copy of 16 bytes that a thread has begun.
struct Copy {
  void* to;
  const void* from;
  int bytes; ///< those beyond become 0
};

struct Thread {
  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  State state = State::kReady;
  void* sanitizer_stack = nullptr;
  std::vector<Copy> copies; ///< of no group yet
  std::deque<std::vector<Copy>> groups;
};

/// A block on its way: its threads are contexts that give way to each other at barriers only.
class Block {
 public:
  Block(int threads, int64_t shared_bytes)
      : threads_(static_cast<size_t>(threads)),
        shared_size_((shared_bytes + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment),
        // Nothing behind it, so that AddressSanitizer sees what reads beyond.
        shared_(
            static_cast<char*>(std::aligned_alloc(kSharedAlignment, std::max(shared_size_, kSharedAlignment))),
            std::free),
        exchanged_(threads_.size() * kExchangeBytes) {
    for (Thread& thread : threads_) {
      thread.stack.reset(new char[kStackBytes]); // not zeroed
    }
  }

  void run(int64_t x, int64_t y, Order order, const std::function<void()>& body) {
    x_ = x;
    y_ = y;
    body_ = &body;
    copies_at_once_ = order == Order::kDescending;
    std::memset(shared_.get(), 0xFF, static_cast<size_t>(shared_size_));
    std::vector<size_t> turn(threads_.size());
    std::iota(turn.begin(), turn.end(), 0);
    if (order == Order::kDescending) {
      std::reverse(turn.begin(), turn.end());
    }
    for (Thread& thread : threads_) {
      begin(thread);
    }
    std::mt19937 random(static_cast<unsigned>(x * 7919 + y));
    while (true) {
      if (order == Order::kShuffled) {
        std::shuffle(turn.begin(), turn.end(), random);
      }
      for (const size_t index : turn) {
        if (threads_[index].state == State::kReady) {
          enter(index);
        }
        if (failure_) {
          std::rethrow_exception(failure_);
        }
      }
      if (!release()) {
        return;
      }
    }
  }

  void wait(State at) {
    Thread& thread = threads_[now_];
    thread.state = at;
    leave(thread, /*for_good=*/false);
  }

  void exchange(const void* value, void* all, int64_t size) {
    if (size > kExchangeBytes) {
      throw std::logic_error("a warp exchanges at most 64 bytes a lane");
    }
    std::memcpy(exchanged_.data() + now_ * kExchangeBytes, value, static_cast<size_t>(size));
    wait(State::kAtWarp);
    const size_t first = now_ / kWarp * kWarp;
    for (size_t lane = 0; lane < kWarp; ++lane) {
      std::memcpy(
          static_cast<char*>(all) + lane * static_cast<size_t>(size),
          exchanged_.data() + (first + lane) * kExchangeBytes, static_cast<size_t>(size));
    }
    wait(State::kAtWarp);
  }

  void copy_later(const Copy& copy) {
    const auto is_aligned = [](const void* address) { return reinterpret_cast<uintptr_t>(address) % kCopyBytes == 0; };
    if (!is_aligned(copy.to) || !is_aligned(copy.from) || copy.bytes < 0 || copy.bytes > kCopyBytes) {
      throw std::logic_error("a copy of " + std::to_string(copy.bytes) + " bytes is not of 16 aligned ones");
    }
    if (copies_at_once_) {
      perform(copy);
    } else {
      threads_[now_].copies.push_back(copy);
    }
  }

  static void perform(const Copy& copy) {
    std::memset(copy.to, 0, kCopyBytes);
    std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  }

  void commit_copies() {
    Thread& thread = threads_[now_];
    thread.groups.push_back(std::move(thread.copies));
    thread.copies.clear();
  }

  void wait_for_copies(int pending) {
    Thread& thread = threads_[now_];
    for (; thread.groups.size() > static_cast<size_t>(pending); thread.groups.pop_front()) {
      for (const Copy& copy : thread.groups.front()) {
        perform(copy);
      }
    }
  }

  int thread() const {
    return static_cast<int>(now_);
  }
  int64_t x() const {
    return x_;
  }
  int64_t y() const {
    return y_;
  }
  char* shared() {
    return shared_.get();
  }

  static Block*& current() {
    static thread_local Block* block = nullptr;
    return block;
  }

 private:
  static void entry() {
    Block& block = *current();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block.main_stack_, &block.main_stack_size_);
#endif
    try {
      (*block.body_)();
    } catch (...) {
      block.failure_ = std::current_exception();
    }
    Thread& thread = block.threads_[block.now_];
    thread.state = State::kDone;
    block.leave(thread, /*for_good=*/true);
  }

  void begin(Thread& thread) {
    ::getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    thread.state = State::kReady;
    thread.sanitizer_stack = nullptr;
    thread.copies.clear();
    thread.groups.clear();
    ::makecontext(&thread.context, &Block::entry, 0);
  }

  void enter(size_t index) {
    now_ = index;
    Thread& thread = threads_[index];
#if defined(__SANITIZE_ADDRESS__)
    void* own = nullptr;
    __sanitizer_start_switch_fiber(&own, thread.stack.get(), kStackBytes);
#endif
    ::swapcontext(&main_, &thread.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#endif
  }

  void leave(Thread& thread, bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &thread.sanitizer_stack, main_stack_, main_stack_size_);
#endif
    ::swapcontext(&thread.context, &main_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(thread.sanitizer_stack, &main_stack_, &main_stack_size_);
#endif
  }

  /// Lets whole warps and the whole block pass their barriers; false once all threads are done.
  bool release() {
    bool moved = false;
    size_t done = 0, at_block = 0;
    for (size_t first = 0; first < threads_.size(); first += kWarp) {
      size_t at_warp = 0;
      for (size_t i = first; i < first + kWarp; ++i) {
        at_warp += threads_[i].state == State::kAtWarp;
        at_block += threads_[i].state == State::kAtBlock;
        done += threads_[i].state == State::kDone;
      }
      if (at_warp == kWarp) {
        moved = true;
        for (size_t i = first; i < first + kWarp; ++i) {
          threads_[i].state = State::kReady;
        }
      }
    }
    if (at_block == threads_.size()) {
      moved = true;
      for (Thread& thread : threads_) {
        thread.state = State::kReady;
      }
    }
    if (!moved && done < threads_.size()) {
      throw std::logic_error(
          "threads wait for others that never come: " + std::to_string(done) + " of " +
          std::to_string(threads_.size()) + " are done, " + std::to_string(at_block) + " wait for the block");
    }
    return moved;
  }

  std::vector<Thread> threads_;
  int64_t shared_size_;
  std::unique_ptr<char, decltype(&std::free)> shared_;
  std::vector<char> exchanged_;
  ucontext_t main_{};
  const void* main_stack_ = nullptr;
  size_t main_stack_size_ = 0;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr failure_;
  size_t now_ = 0;
  int64_t x_ = 0, y_ = 0;
  bool copies_at_once_ = false;
};

} // namespace

void run_blocks(
    int64_t blocks_x, int64_t blocks_y, int threads, int64_t shared_bytes, Order order,
    const std::function<void()>& thread) {
  if (threads <= 0 || threads % kWarp != 0) {
    throw std::logic_error("a block of " + std::to_string(threads) + " threads is no whole number of warps");
  }
  Block block(threads, shared_bytes);
  Block*& current = Block::current();
  Block* const outer = current;
  current = &block;
  try {
    for (int64_t y = 0; y < blocks_y; ++y) {
      for (int64_t x = 0; x < blocks_x; ++x) {
        block.run(x, y, order, thread);
      }
    }
  } catch (...) {
    current = outer;
    throw;
  }
  current = outer;
}

int thread_index() {
  return Block::current()->thread();
}
int64_t block_x() {
  return Block::current()->x();
}
int64_t block_y() {
  return Block::current()->y();
}
char* shared_memory() {
  return Block::current()->shared();
}
void sync_block() {
  Block::current()->wait(State::kAtBlock);
}
void sync_warp() {
  Block::current()->wait(State::kAtWarp);
}
void exchange(const void* value, void* all, int64_t size) {
  Block::current()->exchange(value, all, size);
}
void copy_later(void* to, const void* from, int bytes) {
  Block::current()->copy_later({to, from, bytes});
}
void commit_copies() {
  Block::current()->commit_copies();
}
void wait_for_copies(int pending) {
  Block::current()->wait_for_copies(pending);
}

} // namespace rora::kernels::cuda::host

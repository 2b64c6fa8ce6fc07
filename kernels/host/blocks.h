#pragma once

#include <cstdint>
#include <functional>

namespace rora::kernels::cuda {
struct Geometry;
}

/// Runs a kernel's blocks on the host, one after the other, each of its threads by itself from one barrier to the next:
/// for tests, where no GPU is. Shared memory is full of NaNs when a block begins. Throws `std::logic_error` where
/// threads wait for others that never come.
namespace rora::kernels::cuda::host {

/// In which order the threads of a block run between barriers: results that depend on it lack a barrier. Copies that
/// run beside the threads are made at once in descending order, and in the others as late as a GPU may make them.
enum class Order { kAscending, kDescending, kShuffled };

void run_blocks(
    int64_t blocks_x, int64_t blocks_y, int threads, int64_t shared_bytes, Order order,
    const std::function<void()>& thread);

template <class Kernel>
void run(const Kernel& kernel, Order order = Order::kAscending) {
  const auto geometry = kernel.geometry();
  run_blocks(geometry.blocks_x, geometry.blocks_y, Kernel::kThreads, geometry.shared_bytes, order, [&] { kernel(); });
}

// What the kernel's code calls through device.h.
int thread_index();
int64_t block_x();
int64_t block_y();
char* shared_memory();
void sync_block();
void sync_warp();

/// Gives `size` bytes to the warp's lanes and takes those of all 32, in their order.
void exchange(const void* value, void* all, int64_t size);

/// As `cuda::copy_later` and the others of matrix.h.
void copy_later(void* to, const void* from, int bytes);
void commit_copies();
void wait_for_copies(int pending);

} // namespace rora::kernels::cuda::host

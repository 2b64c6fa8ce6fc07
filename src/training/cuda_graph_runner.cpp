#include <rora/training/step_graphs.h>

#include <c10/util/Exception.h>

#if defined(RORA_HAS_CUDA)
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace rora {

#if defined(RORA_HAS_CUDA)
namespace {

using c10::cuda::CUDAStream;

void wait_for(CUDAStream waiting, CUDAStream other) {
  at::cuda::CUDAEvent event;
  event.record(other);
  event.block(waiting);
}

/// A graph, and the stream that it is captured and replayed on.
class CapturedGraph {
 public:
  explicit CapturedGraph(CUDAStream stream) : stream_(stream) {}
  ~CapturedGraph() {
    cudaStreamSynchronize(stream_); // it may be running; who uses the device next hears of a failure
  }
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;

  void capture(at::MempoolId_t pool, const std::function<void()>& work) {
    try {
      // Backward runs on a thread of autograd's: what is forbidden during a capture is so for this thread alone.
      graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
      work();
      graph_.capture_end();
    } catch (...) {
      abandon(pool);
      throw;
    }
  }
  void replay() {
    graph_.replay();
  }

 private:
  /// Leaves a capture that failed. The graph ends the use of its pool only where the capture's end is no failure.
  void abandon(at::MempoolId_t pool) {
    const auto attempt = [](const std::function<void()>& what) {
      try {
        what();
      } catch (const std::exception&) { // what has failed or ended already
      }
    };
    attempt([&] { graph_.capture_end(); });
    attempt([&] { c10::cuda::CUDACachingAllocator::endAllocateToPool(stream_.device_index(), pool); });
    attempt([&] { at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(pool); });
  }

  CUDAStream stream_;
  at::cuda::CUDAGraph graph_;
};

class CudaGraphRunner final : public GraphRunner {
 public:
  explicit CudaGraphRunner(c10::DeviceIndex device)
      : before_(c10::cuda::getCurrentCUDAStream(device)),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device)),
        pool_(at::cuda::graph_pool_handle()),
        guard_(stream_) {
    wait_for(stream_, before_);
  }
  ~CudaGraphRunner() override {
    try {
      wait_for(before_, stream_);
    } catch (const std::exception&) { // the device has failed, as who uses it next hears
    }
  }

  std::function<void()> capture(const std::function<void()>& work) override {
    stream_.synchronize();
    // A graph's memory comes from a pool of its own, which what the allocator holds ready does not serve.
    c10::cuda::CUDACachingAllocator::emptyCache();
    const auto graph = std::make_shared<CapturedGraph>(stream_);
    try {
      graph->capture(pool_, work);
    } catch (const c10::Error& error) {
      const std::string what = error.what_without_backtrace();
      throw std::runtime_error("the step cannot be captured in a CUDA graph: " + what.substr(0, what.find('\n')));
    }
    return [graph] { graph->replay(); };
  }

 private:
  CUDAStream before_;
  CUDAStream stream_;
  at::MempoolId_t pool_; // shared by the graphs, one of which runs at a time and leaves nothing in it
  c10::cuda::CUDAStreamGuard guard_;
};

} // namespace

std::unique_ptr<GraphRunner> cuda_graph_runner(at::Device device) {
  TORCH_CHECK_VALUE(device.is_cuda(), "CUDA graphs need a GPU, not the device ", device);
  const c10::DeviceIndex index = device.has_index() ? device.index() : c10::cuda::current_device();
  return std::make_unique<CudaGraphRunner>(index);
}
#else
std::unique_ptr<GraphRunner> cuda_graph_runner(at::Device) {
  TORCH_CHECK_VALUE(false, "CUDA graphs: rora was built without CUDA");
}
#endif

} // namespace rora

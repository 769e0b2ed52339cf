#include "moe/transport/dial/staged_calls.h"

#include <algorithm>
#include <utility>

#include "moe/kernels/accelerator/pinned_memory.h"

namespace conclave {

StagedCalls::StagedCalls(std::shared_ptr<DeviceStream> stream)
    : stream_(std::move(stream)), host_(PinnedMemory(stream_)) {}

void StagedCalls::Call(Transport& over, ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) {
  if (free_.empty()) free_.push_back(std::make_shared<Memory>(host_));
  std::shared_ptr<Memory> memory = std::move(free_.back());
  free_.pop_back();
  const DType dtype = call.rows.dtype;
  const int64_t rows_bytes = call.rows.rows * call.rows.cols * SizeOf(dtype);
  const int64_t out_bytes = out.rows * out.cols * SizeOf(dtype);
  memory->rows.Reserve(std::max<int64_t>(rows_bytes, 1));
  memory->out.Reserve(std::max<int64_t>(out_bytes, 1));
  ExpertCall staged = call;
  staged.ready = nullptr;
  staged.rows = MatView{memory->rows.data(), dtype, Device::kCpu, call.rows.rows, call.rows.cols, call.rows.cols};
  if (call.ready != nullptr) stream_->WaitFor(*call.ready);
  stream_->CopyOut(memory->rows.data(), call.rows.data, rows_bytes);
  const absl::Status copied = stream_->Await();
  if (!copied.ok()) staged.deadline = absl::InfinitePast();  // so that its Done comes due like any other
  const MatView host_out{memory->out.data(), dtype, Device::kCpu, out.rows, out.cols, out.cols};
  over.Call(shard, staged, host_out,
            [this, memory, copied, device_out = out.data, out_bytes, done = std::move(done)](absl::Status status) {
              if (!copied.ok()) status = copied;
              if (status.ok()) {
                stream_->CopyIn(device_out, memory->out.data(), out_bytes);
                status = stream_->Await();
              }
              free_.push_back(memory);
              done(status);
            });
}

}  // namespace conclave

// What tests of RemoteExperts share: fake shards behind an in-process transport, which may be made faulty.
#ifndef CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_TESTING_H_
#define CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_TESTING_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/faulty/faulty_transport.h"
#include "moe/transport/inproc/inproc_transport.h"
#include "router_service/remote_experts.h"

namespace conclave {

inline constexpr int kHidden = 8, kExperts = 16, kTopK = 4;

ModelSpec Spec();

// Rows of small whole numbers and a random routing, and what the fake experts make of them.
struct Rows {
  Rows(int rows, uint32_t seed);
  bool IsRight(const MatBuffer& out, LayerId layer) const;
  MatBuffer x;
  std::vector<int32_t> experts;
  Routing routing;
};

// Asks fake shards at once; a shard that is gone does not answer.
class FakeControl final : public ShardControl {
 public:
  explicit FakeControl(const std::vector<std::unique_ptr<FakeExpertHandler>>& shards)
      : shards_(shards), gone_(shards.size()) {}
  void Describe(ShardId shard, absl::Duration) override {
    ++asked_;
    Push(shard, false, shards_[Value(shard)]->Describe());
  }
  void LoadExperts(ShardId shard, const std::vector<LayerHolding>& experts, absl::Duration) override {
    if (gone_[Value(shard)]) return Push(shard, true, absl::UnavailableError("gone"));
    Push(shard, true, full_ ? absl::ResourceExhaustedError("full") : shards_[Value(shard)]->LoadExperts(experts));
  }
  std::optional<ShardNews> Next() override {
    if (news_.empty()) return std::nullopt;
    ShardNews news = news_.front();
    news_.pop_front();
    return news;
  }
  void SetGone(ShardId shard, bool gone) { gone_[Value(shard)] = gone; }
  void SetFull() { full_ = true; }
  int asked() const { return asked_; }

 private:
  void Push(ShardId shard, bool of_load, absl::StatusOr<ShardDescription> description) {
    if (gone_[Value(shard)]) description = absl::UnavailableError("gone");
    news_.push_back({shard, of_load, std::move(description)});
  }
  const std::vector<std::unique_ptr<FakeExpertHandler>>& shards_;
  std::vector<bool> gone_;
  bool full_ = false;
  int asked_ = 0;
  std::deque<ShardNews> news_;
};

// Takes rows of calls on the device of a host accelerator, and hands them to another transport as rows on the host.
class OnDeviceTransport final : public Transport {
 public:
  explicit OnDeviceTransport(Transport& inner) : inner_(inner) {}
  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override;
  void Cancel(uint64_t call_id) override { inner_.Cancel(call_id); }
  int Progress(absl::Duration wait) override { return inner_.Progress(wait); }
  int shards() const override { return inner_.shards(); }
  Device rows_device() const override { return Device::kCuda; }
  bool MayFreeDeviceMemory() const override { return may_free; }
  bool may_free = true;
  std::vector<bool> rows_stay;  // of each call in order

 private:
  Transport& inner_;
};

// A pool over fake shards.
class RemoteExpertsTest : public testing::Test {
 public:
  // Whether rows lie on the device of a host accelerator, which is lazy.
  static bool& RowsOnDevice() {
    static bool on_device = false;
    return on_device;
  }

 protected:
  // `copies` holders for each expert: shard i also holds what shards i + 1 … hold.
  void Start(int shards, int copies = 1, Compute compute = Compute::kF32);
  void Kill(int shard) {
    control_->SetGone(ShardId{shard}, true);
    inproc_->Disconnect(ShardId{shard});
  }
  void Revive(int shard) {
    control_->SetGone(ShardId{shard}, false);
    inproc_->Connect(ShardId{shard}, handlers_[shard].get());
  }
  // What was learnt of latencies: so many calls of every size and shard.
  void WarmUp() {
    for (uint32_t seed = 0; seed < 20; ++seed) ASSERT_EQ(RunOnce(Rows(6, seed)), absl::OkStatus());
  }
  void Connect();
  absl::Status Refusal() {
    return RemoteExperts::Create(Spec(), *kernels_, *inproc_, descriptions_, options_).status();
  }
  // The pool's Start and Finish; rows go to the device and back where they belong there.
  absl::StatusOr<ExpertTicket> Begin(const Rows& rows, LayerId layer = LayerId{1});
  absl::Status End(ExpertTicket ticket, MatBuffer& out);
  // Start and Finish of one layer; INTERNAL where the result is not what the experts make of the rows.
  absl::Status RunOnce(const Rows& rows, LayerId layer = LayerId{1});
  // From now on, `faults` happen between router and shards; to be called before Connect.
  void MakeFaulty(const FaultyOptions& faults) { faulty_ = std::make_unique<FaultyTransport>(*inproc_, faults); }
  // Another cluster in place of this one.
  void StartAgain(int shards, int copies = 1, Compute compute = Compute::kF32);
  void TearDown() override;

  const Kernels* kernels_ = nullptr;
  std::vector<ShardDescription> descriptions_;
  std::vector<std::unique_ptr<FakeExpertHandler>> handlers_;
  std::unique_ptr<InprocTransport> inproc_;
  std::unique_ptr<FaultyTransport> faulty_;
  std::unique_ptr<FakeControl> control_;
  int64_t device_bytes_ = int64_t{1} << 32;
  std::unique_ptr<HostAccelerator> device_;  // null: rows lie on the host
  std::unique_ptr<OnDeviceTransport> on_device_;
  RemoteExpertsOptions options_;
  std::unique_ptr<RemoteExperts> pool_;

 private:
  struct OnDevice {  // of a ticket there
    MatBuffer x, rounded;  // the first is made of the second
    std::vector<int32_t> fault_layers;
  };
  std::map<uint64_t, OnDevice> in_flight_;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_TESTING_H_

// What tests of the NCCL transport over the fake share.
#ifndef CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_TESTING_H_
#define CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_TESTING_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/transport/data_plane/direct_control.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/nccl/fake_nccl.h"
#include "moe/transport/nccl/nccl_api.h"
#include "moe/transport/nccl/nccl_expert_server.h"
#include "moe/transport/nccl/nccl_transport.h"
#include "moe/transport/transport_test_suite.h"

namespace conclave {

// One shard and one router over the fake. Nothing runs out by itself, however slow the machine: a test that waits for a
// deadline of the connection's sets it, and counts on nothing else in that time.
class NcclFaultTest : public testing::Test {
 protected:
  NcclFaultTest() {
    server_options_.api = options_.api = &api_;
    server_options_.new_stream = options_.new_stream = fake_nccl::Streams();
    server_options_.move_timeout = options_.move_timeout = absl::Minutes(1);
    server_options_.join_timeout = options_.connect_timeout = absl::Minutes(1);
  }
  ~NcclFaultTest() override {
    fake_nccl::Reset();
    Stop();
    EXPECT_EQ(fake_nccl::communicators(), 0);
  }
  void Stop() {
    transport_.reset();
    server_.reset();
  }

  void Start(ExpertHandler* handler = nullptr) {
    auto server = NcclExpertServer::Start(server_options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->SetHandler(handler != nullptr ? handler : &handler_);
    transport_ = NewNcclTransport(
        1, std::make_unique<DirectControl>(std::make_shared<std::vector<DataPlane*>>(1, server_.get())), options_);
  }
  void GiveUpRowsSoon() { server_options_.move_timeout = options_.move_timeout = absl::Milliseconds(100); }
  // The status of one call.
  absl::Status Ask(absl::Duration timeout = absl::Seconds(10)) {
    const std::vector<std::vector<int32_t>> experts = {{0, 3}, {}, {7}};
    TestCall call(++last_call_, DType::kF32, 5, kHidden, experts);
    call.Send(*transport_, ShardId{0}, timeout);
    const absl::Time until = absl::Now() + absl::Seconds(20);
    while (!call.done() && absl::Now() < until) transport_->Progress(absl::Milliseconds(10));
    EXPECT_TRUE(call.done());
    EXPECT_TRUE(call.status().ok() ? call.OutIsRight() : testing::AssertionResult(call.OutIsUntouched()));
    return call.status();
  }
  absl::Status AskUntilAnswered() {
    absl::Status last;
    for (const absl::Time until = absl::Now() + absl::Seconds(10); absl::Now() < until;) {
      if (last = Ask(); last.ok()) return last;
      transport_->Progress(absl::Milliseconds(5));
    }
    return last;
  }

  static constexpr int kHidden = 32;
  NcclApi api_ = fake_nccl::Api();
  NcclExpertServerOptions server_options_;
  NcclTransportOptions options_;
  FakeExpertHandler handler_{"fake-0", kHidden, 16};
  std::unique_ptr<NcclExpertServer> server_;
  std::unique_ptr<NcclTransport> transport_;
  uint64_t last_call_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_TESTING_H_

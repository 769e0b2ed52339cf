#include "tests/demo_cluster.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/grpc/describe.h"
#include "moe/transport/grpc/grpc_transport.h"
#include "moe/transport/inproc/inproc_transport.h"

namespace conclave {

const Checkpoint& DemoCheckpoint() {
  static const Checkpoint* const checkpoint = [] {
    // Bazel shows a test its files through links, which a checkpoint refuses to follow out of its directory.
    auto opened = Checkpoint::Open(std::filesystem::canonical("models/demo/config.json").parent_path().string());
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened->release();
  }();
  return *checkpoint;
}

DemoCluster::DemoCluster(const Kernels& kernels, int shards, DemoTransport transport, int rows_max) {
  const Checkpoint& checkpoint = DemoCheckpoint();
  std::vector<ExpertHandler*> handlers;
  std::vector<ShardDescription> descriptions;
  std::vector<std::string> addresses;
  for (int i = 0; i < shards; ++i) {
    ExpertShardOptions options;
    options.name = absl::StrCat("expert-", i);
    options.shard_index = i;
    options.shard_count = shards;
    options.kernels = &kernels;
    options.threads.threads = 1 + i % 2;
    auto shard = ExpertShard::Create(options, checkpoint);
    EXPECT_TRUE(shard.ok()) << shard.status();
    handlers.push_back(shard->get());
    descriptions.push_back((*shard)->Describe());
    shards_.push_back(*std::move(shard));
    if (transport == DemoTransport::kInproc) continue;
    auto server = GrpcExpertServer::Start("127.0.0.1:0", *shards_.back());
    EXPECT_TRUE(server.ok()) << server.status();
    addresses.push_back((*server)->address());
    servers_.push_back(*std::move(server));
  }
  if (transport == DemoTransport::kInproc) {
    transport_ = std::make_unique<InprocTransport>(handlers);
  } else {
    auto told = DescribeShards(addresses, checkpoint.fingerprint(), absl::Now() + absl::Seconds(30));
    EXPECT_TRUE(told.ok()) << told.status();
    descriptions = *std::move(told);
    GrpcTransportOptions expected;
    expected.model_fingerprint = checkpoint.fingerprint();
    expected.numeric_profile = descriptions[0].numeric_profile;
    transport_ = NewGrpcTransport(addresses, expected);
  }
  RemoteExpertsOptions options;
  options.rows_max = rows_max;
  options.model_fingerprint = checkpoint.fingerprint();
  auto pool = RemoteExperts::Create(checkpoint.spec(), kernels, *transport_, descriptions, options);
  EXPECT_TRUE(pool.ok()) << pool.status();
  pool_ = *std::move(pool);
}

DemoCluster::~DemoCluster() { transport_.reset(); }

}  // namespace conclave

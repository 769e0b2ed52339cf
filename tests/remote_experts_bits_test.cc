// Promise 1 at the seam between model and network: experts on shards, over every transport and however many, give the
// bits that experts in this process give.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "expert_service/expert_shard.h"
#include "moe/base/ids.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/kernels.h"
#include "moe/model/expert_pool.h"
#include "moe/model/local_experts.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/dial/dial_shards.h"
#include "moe/transport/grpc/describe.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/inproc/inproc_transport.h"
#include "moe/transport/ucx/ucx_expert_server.h"
#include "router_service/remote_experts.h"

namespace conclave {
namespace {

constexpr int kRowsMax = 130;

const Checkpoint& Demo() {
  static const Checkpoint* const checkpoint = [] {
    auto opened = Checkpoint::Open(std::filesystem::canonical("models/demo/config.json").parent_path().string());
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened->release();
  }();
  return *checkpoint;
}

// How rows reach the shards.
enum class Over { kFunctionCalls, kGrpc, kUcx };
const char* NameOf(Over over) {
  return over == Over::kUcx ? "OverUcx" : over == Over::kGrpc ? "OverGrpc" : "InProcess";
}

// Shards of the demo model and a pool that reaches them.
class Cluster {
 public:
  Cluster(const Kernels& kernels, int shards, Over over, RowFormat format) {
    std::vector<ExpertHandler*> handlers;
    std::vector<std::string> addresses;
    std::vector<ShardDescription> descriptions;
    for (int i = 0; i < shards; ++i) {
      ExpertShardOptions options;
      options.name = absl::StrCat("expert-", i);
      options.shard_index = i;
      options.shard_count = shards;
      options.kernels = &kernels;
      options.threads.threads = 1 + i % 2;
      auto shard = ExpertShard::Create(options, Demo());
      EXPECT_TRUE(shard.ok()) << shard.status();
      handlers.push_back(shard->get());
      descriptions.push_back((*shard)->Describe());
      shards_.push_back(*std::move(shard));
      if (over == Over::kFunctionCalls) continue;
      UcxExpertServer* ucx = nullptr;
      if (over == Over::kUcx) {
        auto started = UcxExpertServer::Start(UcxExpertServerOptions{});
        EXPECT_TRUE(started.ok()) << started.status();
        ucx = ucx_servers_.emplace_back(*std::move(started)).get();
        ucx->SetHandler(shards_.back().get());
      }
      auto server = GrpcExpertServer::Start("127.0.0.1:0", *shards_.back(), ucx);
      EXPECT_TRUE(server.ok()) << server.status();
      addresses.push_back((*server)->address());
      servers_.push_back(*std::move(server));
    }
    RemoteExpertsOptions options;
    options.rows_max = kRowsMax;
    options.row_format = format;
    options.model_fingerprint = Demo().fingerprint();
    if (over != Over::kFunctionCalls) {
      const auto told = DescribeShards(addresses, Demo().fingerprint(), absl::Now() + absl::Seconds(30));
      EXPECT_TRUE(told.ok()) << told.status();
      descriptions = *told;
      DialOptions dial;
      dial.kind = over == Over::kUcx ? TransportKind::kUcx : TransportKind::kGrpc;
      dial.model_fingerprint = Demo().fingerprint();
      dial.numeric_profile = descriptions[0].numeric_profile;
      auto transport = DialShards(addresses, dial);
      EXPECT_TRUE(transport.ok()) << transport.status();
      transport_ = *std::move(transport);
    } else {
      transport_ = std::make_unique<InprocTransport>(handlers);
    }
    auto pool = RemoteExperts::Create(Demo().spec(), kernels, *transport_, descriptions, options);
    EXPECT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }
  ~Cluster() { transport_.reset(); }
  RemoteExperts& pool() { return *pool_; }

 private:
  std::vector<std::unique_ptr<ExpertShard>> shards_;
  std::vector<std::unique_ptr<UcxExpertServer>> ucx_servers_;
  std::vector<std::unique_ptr<GrpcExpertServer>> servers_;
  std::unique_ptr<RemoteExperts> pool_;
  std::unique_ptr<Transport> transport_;
};

// Random rows and their routing; `experts_used` of all experts, so that 4 of 4 sends every row to the same ones.
struct Rows {
  Rows(int rows, int experts_used, uint32_t seed) : x(DType::kF32, rows, Demo().spec().hidden) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1);
    for (int64_t i = 0; i < x.view().rows * x.view().cols; ++i) x.view().Row<float>(0)[i] = normal(random);
    std::vector<int32_t> all(Demo().spec().gate.experts);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
    std::shuffle(all.begin(), all.end(), random);
    all.resize(experts_used);
    routing.top_k = std::min(Demo().spec().gate.top_k, experts_used);
    for (int row = 0; row < rows; ++row) {
      std::shuffle(all.begin(), all.end(), random);
      std::sort(all.begin(), all.begin() + routing.top_k);
      experts.insert(experts.end(), all.begin(), all.begin() + routing.top_k);
    }
    routing.experts = experts;
  }
  MatBuffer x;
  std::vector<int32_t> experts;
  Routing routing;
};

MatBuffer RunExperts(ExpertPool& pool, LayerId layer, const Rows& rows) {
  MatBuffer out(pool.row_dtype(), static_cast<int64_t>(rows.experts.size()), rows.x.view().cols);
  std::memset(out.view().data, 0xff, out.bytes());
  const auto ticket = pool.Start(layer, rows.x.view(), rows.routing);
  EXPECT_TRUE(ticket.ok()) << ticket.status();
  const absl::Status status = pool.Finish(*ticket, out.view());
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

struct Way {
  Compute compute;
  Over over;
  RowFormat format = RowFormat::kCompute;
};

class RemoteExpertsBits : public testing::TestWithParam<Way> {};
INSTANTIATE_TEST_SUITE_P(Ways, RemoteExpertsBits,
                         testing::Values(Way{Compute::kF32, Over::kFunctionCalls}, Way{Compute::kF32, Over::kGrpc},
                                         Way{Compute::kF32, Over::kUcx}, Way{Compute::kBF16, Over::kFunctionCalls},
                                         Way{Compute::kBF16, Over::kGrpc}, Way{Compute::kBF16, Over::kUcx},
                                         Way{Compute::kF32, Over::kGrpc, RowFormat::kFp8},
                                         Way{Compute::kBF16, Over::kFunctionCalls, RowFormat::kFp8},
                                         Way{Compute::kBF16, Over::kGrpc, RowFormat::kFp8},
                                         Way{Compute::kBF16, Over::kUcx, RowFormat::kFp8}),
                         [](const auto& way) {
                           return absl::StrCat(std::string(Name(way.param.compute)), NameOf(way.param.over),
                                               way.param.format == RowFormat::kFp8 ? "RowsInFp8" : "");
                         });

TEST_P(RemoteExpertsBits, EqualThoseOfLocalExpertsWhateverTheShards) {
  const auto kernels = CpuKernels(GetParam().compute, "");
  ASSERT_TRUE(kernels.ok()) << kernels.status();
  ThreadPool threads(1);
  const auto local = LocalExperts::Create(Demo(), **kernels, threads, kRowsMax, GetParam().format);
  ASSERT_TRUE(local.ok()) << local.status();
  for (const int shards : {1, 2, 3, 5, 8}) {
    Cluster cluster(**kernels, shards, GetParam().over, GetParam().format);
    uint32_t seed = 1;
    for (const int rows : {1, 2, 17, kRowsMax}) {
      for (const int experts_used : {1, 4, 9, 32}) {
        const LayerId layer{static_cast<int32_t>(1 + seed % 7)};
        const Rows sent(rows, experts_used, seed++);
        const MatBuffer want = RunExperts(**local, layer, sent);
        const MatBuffer got = RunExperts(cluster.pool(), layer, sent);
        ASSERT_EQ(want.bytes(), got.bytes());
        EXPECT_EQ(std::memcmp(want.view().data, got.view().data, want.bytes()), 0)
            << shards << " shards, " << rows << " rows over " << experts_used << " experts";
      }
    }
  }
}

TEST(RowsInFp8, AreNotTheSameRows) {
  const auto kernels = CpuKernels(Compute::kBF16, "");
  ASSERT_TRUE(kernels.ok()) << kernels.status();
  ThreadPool threads(1);
  const auto plain = LocalExperts::Create(Demo(), **kernels, threads, kRowsMax);
  const auto fp8 = LocalExperts::Create(Demo(), **kernels, threads, kRowsMax, RowFormat::kFp8);
  ASSERT_TRUE(plain.ok() && fp8.ok());
  const Rows sent(17, 9, 3);
  const MatBuffer want = RunExperts(**plain, LayerId{1}, sent), got = RunExperts(**fp8, LayerId{1}, sent);
  EXPECT_NE(std::memcmp(want.view().data, got.view().data, static_cast<size_t>(want.bytes())), 0);
}

}  // namespace
}  // namespace conclave

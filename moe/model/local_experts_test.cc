#include "moe/model/local_experts.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/model/test_models.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

class LocalExpertsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto model = MakeTestModel({}, "bf16");
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *model;
    auto checkpoint = Checkpoint::Open(model_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
  }
  absl::StatusOr<std::unique_ptr<LocalExperts>> Create(Compute compute = Compute::kF32) {
    return LocalExperts::Create(*checkpoint_, ReferenceKernels(compute), threads_, 6);
  }
  static MatBuffer Rows(int count, float seed) {
    MatBuffer rows(DType::kF32, count, 64);
    for (int i = 0; i < count * 64; ++i) rows.view().Row<float>(0)[i] = std::sin(seed + 0.3f * static_cast<float>(i));
    return rows;
  }

  std::string model_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ThreadPool threads_{2};
};

TEST_F(LocalExpertsTest, TicketsInFlightKeepApart) {
  auto pool = Create();
  ASSERT_TRUE(pool.ok()) << pool.status();
  const MatBuffer first = Rows(3, 0), second = Rows(2, 1);
  const std::vector<int32_t> first_experts = {0, 3, 5, 9, 1, 2, 3, 4, 0, 3, 14, 15};
  const std::vector<int32_t> second_experts = {0, 1, 3, 5, 6, 7, 8, 9};
  const Routing first_routing{4, first_experts, {}}, second_routing{4, second_experts, {}};
  MatBuffer want_first(DType::kF32, 12, 64), want_second(DType::kF32, 8, 64);
  ASSERT_TRUE((*pool)->Finish(*(*pool)->Start(LayerId{1}, first.view(), first_routing), want_first.view()).ok());
  ASSERT_TRUE((*pool)->Finish(*(*pool)->Start(LayerId{2}, second.view(), second_routing), want_second.view()).ok());
  MatBuffer got_first(DType::kF32, 12, 64), got_second(DType::kF32, 8, 64);
  const ExpertTicket a = *(*pool)->Start(LayerId{1}, first.view(), first_routing);
  const ExpertTicket b = *(*pool)->Start(LayerId{2}, second.view(), second_routing);
  ASSERT_TRUE((*pool)->Finish(b, got_second.view()).ok());
  ASSERT_TRUE((*pool)->Finish(a, got_first.view()).ok());
  EXPECT_EQ(std::memcmp(got_first.view().data, want_first.view().data, want_first.bytes()), 0);
  EXPECT_EQ(std::memcmp(got_second.view().data, want_second.view().data, want_second.bytes()), 0);
  // Row 0 of the first call and row 0 of the second go through different experts of different layers.
  EXPECT_NE(std::memcmp(got_first.view().data, got_second.view().data, 64 * sizeof(float)), 0);
}

TEST_F(LocalExpertsTest, RowsTravelInTheDtypeOfTheProfile) {
  auto exact = Create(Compute::kF32), rounded = Create(Compute::kBF16);
  ASSERT_TRUE(exact.ok() && rounded.ok());
  EXPECT_EQ((*exact)->row_dtype(), DType::kF32);
  EXPECT_EQ((*rounded)->row_dtype(), DType::kBF16);
  const MatBuffer x = Rows(1, 2);
  const std::vector<int32_t> experts = {1, 2, 3, 4};
  MatBuffer want(DType::kF32, 4, 64), got(DType::kBF16, 4, 64);
  ASSERT_TRUE((*exact)->Finish(*(*exact)->Start(LayerId{3}, x.view(), {4, experts, {}}), want.view()).ok());
  ASSERT_TRUE((*rounded)->Finish(*(*rounded)->Start(LayerId{3}, x.view(), {4, experts, {}}), got.view()).ok());
  double error = 0, norm = 0;
  for (int i = 0; i < 4 * 64; ++i) {
    const double reference = want.view().Row<float>(0)[i];
    error += std::pow(Bf16ToFloat(got.view().Row<uint16_t>(0)[i]) - reference, 2);
    norm += reference * reference;
  }
  EXPECT_LT(std::sqrt(error / norm), 1e-2);
  EXPECT_GT(error, 0);
}

TEST_F(LocalExpertsTest, WhatThePoolCannotHoldIsRefused) {
  auto pool = Create();
  ASSERT_TRUE(pool.ok()) << pool.status();
  const MatBuffer x = Rows(7, 3);
  const std::vector<int32_t> experts(7 * 4, 0), one = {0, 1, 2, 3}, wrong = {0, 1, 2, 16};
  EXPECT_EQ((*pool)->Start(LayerId{1}, x.view(), {4, experts, {}}).status().code(),
            absl::StatusCode::kResourceExhausted);
  const ConstMatView row = x.view().Rows(0, 1);
  EXPECT_EQ((*pool)->Start(LayerId{1}, row, {4, wrong, {}}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*pool)->Start(LayerId{0}, row, {4, one, {}}).status().code(), absl::StatusCode::kInvalidArgument);
  for (int i = 0; i < LocalExperts::kTicketsMax; ++i) EXPECT_TRUE((*pool)->Start(LayerId{1}, row, {4, one, {}}).ok());
  EXPECT_EQ((*pool)->Start(LayerId{1}, row, {4, one, {}}).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(LocalExpertsTest, AMissingExpertIsNamedAtCreation) {
  const std::string missing = "model.layers.2.mlp.experts.5.up_proj.weight";
  ASSERT_TRUE(RenameTensor(model_, missing, "model.layers.2.mlp.experts.5.up_prox.weight").ok());
  const auto checkpoint = Checkpoint::Open(model_);  // may notice already
  const absl::Status status =
      checkpoint.ok() ? LocalExperts::Create(**checkpoint, ReferenceKernels(Compute::kF32), threads_, 6).status()
                      : checkpoint.status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(missing));
}

TEST_F(LocalExpertsTest, AFileCutShortIsDataLoss) {
  auto pool = Create();
  ASSERT_TRUE(pool.ok()) << pool.status();
  std::filesystem::resize_file(model_ + "/model.safetensors", 4096);
  const MatBuffer x = Rows(1, 4);
  const std::vector<int32_t> experts = {0, 1, 2, 3};
  const auto ticket = (*pool)->Start(LayerId{1}, x.view(), {4, experts, {}});
  ASSERT_TRUE(ticket.ok()) << ticket.status();
  MatBuffer out(DType::kF32, 4, 64);
  EXPECT_EQ((*pool)->Finish(*ticket, out.view()).code(), absl::StatusCode::kDataLoss);
}

TEST_F(LocalExpertsTest, TheTableCountsStoredBytesOfWhatItHolds) {
  ExpertWeightTable table(*checkpoint_);
  EXPECT_EQ(table.stored_bytes(), 0);
  EXPECT_EQ(table.Find(LayerId{1}, ExpertId{2}), nullptr);
  ASSERT_TRUE(table.Add(LayerId{1}, ExpertId{2}).ok());
  ASSERT_TRUE(table.Add(LayerId{1}, ExpertId{2}).ok());
  EXPECT_EQ(table.stored_bytes(), 3 * 64 * 32 * 2);
  ASSERT_NE(table.Find(LayerId{1}, ExpertId{2}), nullptr);
  EXPECT_EQ(table.Find(LayerId{1}, ExpertId{2})->down.rows(), 64);
  EXPECT_EQ(table.Add(LayerId{0}, ExpertId{2}).code(), absl::StatusCode::kInvalidArgument);  // a dense layer
  EXPECT_EQ(table.Add(LayerId{1}, ExpertId{16}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(table.Find(LayerId{-1}, ExpertId{0}), nullptr);
  table.Remove(LayerId{1}, ExpertId{2});
  EXPECT_EQ(table.Find(LayerId{1}, ExpertId{2}), nullptr);
  EXPECT_EQ(table.stored_bytes(), 0);
}

}  // namespace
}  // namespace conclave

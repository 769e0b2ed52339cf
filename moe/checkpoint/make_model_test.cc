#include "moe/checkpoint/make_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/checkpoint/model_writer.h"
#include "moe/checkpoint/random_weights.h"
#include "moe/checkpoint/test_files.h"
#include "moe/tensor/dtype.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

void NoProgress(int64_t, int64_t) {}

MakeModelOptions Tiny(const std::string& out) {
  MakeModelOptions options;
  options.preset = "tiny";
  options.out = test_files::MakeDirectory(out);
  return options;
}

// Mean and deviation of a weight as the model sees it, scales applied.
std::pair<double, double> Moments(const WeightView& weight) {
  double sum = 0, squares = 0;
  for (int64_t r = 0; r < weight.rows(); ++r) {
    for (int64_t c = 0; c < weight.cols(); ++c) {
      double value = LoadAsFloat(weight.matrix.data, weight.matrix.dtype, r * weight.cols() + c);
      if (weight.has_scales()) value *= weight.scales.Row<float>(r / weight.block_rows)[c / weight.block_cols];
      sum += value;
      squares += value * value;
    }
  }
  const double count = static_cast<double>(weight.rows() * weight.cols());
  return {sum / count, std::sqrt(squares / count - sum / count * sum / count)};
}

TEST(MakeModel, EveryDtypeOpensAndHasSaneWeights) {
  for (const char* dtype : {"bf16", "fp8", "f32"}) {
    SCOPED_TRACE(dtype);
    MakeModelOptions options = Tiny("make");
    options.dtype = dtype;
    ASSERT_TRUE(MakeModel(options, NoProgress).ok());
    const auto checkpoint = Checkpoint::Open(options.out);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ((*checkpoint)->spec().block_quant.present(), options.dtype == "fp8");
    const auto projection = (*checkpoint)->Weight("model.layers.0.mlp.gate_proj.weight", 160, 64);
    ASSERT_TRUE(projection.ok());
    const auto [mean, deviation] = Moments(*projection);
    EXPECT_NEAR(mean, 0.0, 0.01);
    EXPECT_NEAR(deviation, 1.0 / 8, 0.03);
    const auto norm = (*checkpoint)->Vector("model.norm.weight", 64);
    for (const float value : *norm) EXPECT_NEAR(value, 1.0f, 0.3f);
    const std::vector<float> bias = *(*checkpoint)->Vector("model.layers.1.mlp.gate.e_score_correction_bias", 16);
    EXPECT_NE(bias[0], bias[1]);
  }
}

TEST(MakeModel, ConfigNamesTheSpecialIdsAndTheTokenizerGetsThem) {
  MakeModelOptions options = Tiny("special_ids");
  int vocab = 0;
  std::vector<int32_t> ids;
  options.write_tokenizer = [&](const std::string& directory, int size, int32_t bos, int32_t eos) {
    vocab = size;
    ids = {bos, eos};
    return WriteTextFile(directory + "/tokenizer.json", "{}");
  };
  ASSERT_TRUE(MakeModel(options, NoProgress).ok());
  EXPECT_TRUE(fs::exists(options.out + "/tokenizer.json"));
  const auto checkpoint = Checkpoint::Open(options.out);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(vocab, 512);
  EXPECT_EQ(ids, (std::vector<int32_t>{256, 257}));
  EXPECT_EQ((*checkpoint)->spec().bos_id, 256);
  EXPECT_EQ((*checkpoint)->spec().eos_ids, std::vector<int32_t>{257});
}

TEST(MakeModel, BytesDependOnTheSeedAlone) {
  MakeModelOptions options = Tiny("seed_a");
  options.dtype = "fp8";
  ASSERT_TRUE(MakeModel(options, NoProgress).ok());
  const std::string first = test_files::ReadAll(options.out + "/model.safetensors");
  options.out = test_files::MakeDirectory("seed_b");
  ASSERT_TRUE(MakeModel(options, NoProgress).ok());
  EXPECT_TRUE(first == test_files::ReadAll(options.out + "/model.safetensors"));
  options.out = test_files::MakeDirectory("seed_c");
  options.seed = 7;
  ASSERT_TRUE(MakeModel(options, NoProgress).ok());
  EXPECT_FALSE(first == test_files::ReadAll(options.out + "/model.safetensors"));
}

TEST(MakeModel, ACutIntoFilesHoldsTheSameTensors) {
  MakeModelOptions options = Tiny("cut");
  options.dtype = "fp8";
  options.file_bytes_max = 50'000;
  int64_t last_done = 0, total = 0;
  ASSERT_TRUE(MakeModel(options, [&](int64_t done, int64_t bytes_total) {
                EXPECT_GT(done, last_done);
                last_done = done;
                total = bytes_total;
              }).ok());
  EXPECT_EQ(last_done, total);
  int files = 0;
  for (const auto& entry : fs::directory_iterator(options.out)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++files;
    EXPECT_LT(fs::file_size(entry.path()), 50'000u + 100'000u);  // one tensor may exceed the limit; a header is small
  }
  EXPECT_GE(files, 3);
  const auto cut = Checkpoint::Open(options.out);
  ASSERT_TRUE(cut.ok()) << cut.status();
  MakeModelOptions whole_options = Tiny("whole");
  whole_options.dtype = "fp8";
  ASSERT_TRUE(MakeModel(whole_options, NoProgress).ok());
  const auto whole = Checkpoint::Open(whole_options.out);
  EXPECT_EQ((*cut)->TensorNames(), (*whole)->TensorNames());
  for (const std::string& name : (*whole)->TensorNames()) {
    const auto a = (*cut)->Tensor(name), b = (*whole)->Tensor(name);
    ASSERT_TRUE(a.ok() && b.ok());
    ASSERT_EQ(a->bytes, b->bytes);
    EXPECT_EQ(std::memcmp(a->data, b->data, static_cast<size_t>(a->bytes)), 0) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a->data) % SizeOf(a->dtype), 0u) << name;
  }
}

TEST(MakeModel, AConfigOfOneSelfWorksForEveryFamily) {
  MakeModelOptions options = Tiny("from_config");
  const std::string config = test_files::MakeDirectory("config_in") + "/config.json";
  test_files::Write(config, R"({"model_type": "deepseek_v2", "vocab_size": 300, "hidden_size": 48,
    "num_hidden_layers": 3, "moe_intermediate_size": 24, "max_position_embeddings": 100, "num_attention_heads": 3,
    "q_lora_rank": null, "kv_lora_rank": 20, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 7,
    "n_routed_experts": 5, "num_experts_per_tok": 2, "n_shared_experts": 3, "attention_bias": true,
    "tie_word_embeddings": true, "eos_token_id": [298, 299], "bos_token_id": 1})");
  options.preset.clear();
  options.config_file = config;
  options.dtype = "f32";
  ASSERT_TRUE(MakeModel(options, NoProgress).ok());
  const auto checkpoint = Checkpoint::Open(options.out);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE((*checkpoint)->Has("lm_head.weight"));
  EXPECT_TRUE((*checkpoint)->Vector("model.layers.2.self_attn.o_proj.bias", 48).ok());
  EXPECT_TRUE((*checkpoint)->Weight("model.layers.0.mlp.shared_experts.down_proj.weight", 48, 72).ok());
  EXPECT_EQ((*checkpoint)->spec().bos_id, 256);  // 1 would be the byte 0x01
  EXPECT_EQ((*checkpoint)->spec().eos_ids, (std::vector<int32_t>{298, 299}));
}

TEST(MakeModel, RefusesBadOptions) {
  const auto error = [](const MakeModelOptions& options) { return MakeModel(options, NoProgress); };
  MakeModelOptions options = Tiny("bad");
  options.preset = "huge";
  EXPECT_THAT(std::string(error(options).message()), HasSubstr("tiny, small, v3-slice"));
  options = Tiny("bad");
  options.config_file = "x";
  EXPECT_EQ(error(options).code(), absl::StatusCode::kInvalidArgument);
  options = Tiny("bad");
  options.dtype = "int4";
  EXPECT_THAT(std::string(error(options).message()), HasSubstr("int4"));
  options = Tiny("bad");
  options.out.clear();
  EXPECT_EQ(error(options).code(), absl::StatusCode::kInvalidArgument);
  options = Tiny("bad");
  ASSERT_TRUE(error(options).ok());
  EXPECT_EQ(error(options).code(), absl::StatusCode::kAlreadyExists);
  options.preset.clear();
  options.config_file = options.out + "/absent.json";
  EXPECT_EQ(error(options).code(), absl::StatusCode::kNotFound);
}

TEST(MakeModel, WhatFailsLeavesNothingBehind) {
  const std::string parent = test_files::MakeDirectory("nothing");
  MakeModelOptions options = Tiny("unused");
  options.out = parent + "/a/b/model";
  options.write_tokenizer = [](const std::string&, int, int32_t, int32_t) { return absl::DataLossError("no"); };
  EXPECT_EQ(MakeModel(options, NoProgress).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(fs::is_empty(parent));
  options.out = parent;  // is there, and stays
  EXPECT_EQ(MakeModel(options, NoProgress).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(fs::is_directory(parent) && fs::is_empty(parent));
  int pieces = 0;
  options.out = parent + "/stopped/";
  options.stop = [&] { return ++pieces == 10; };
  EXPECT_EQ(MakeModel(options, NoProgress).code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(fs::is_empty(parent));
}

TEST(MakeModel, TakesADirectoryThatHoldsOtherThings) {
  MakeModelOptions options = Tiny("others");
  const std::string note = options.out + "/note.txt";
  ASSERT_TRUE(WriteTextFile(note, "mine").ok());
  ASSERT_TRUE(MakeModel(options, NoProgress).ok());
  EXPECT_TRUE(fs::exists(note));
  EXPECT_TRUE(Checkpoint::Open(options.out).ok());
  for (const auto& entry : fs::directory_iterator(options.out)) EXPECT_TRUE(entry.is_regular_file()) << entry.path();
  options.out = note + "/below";
  EXPECT_THAT(std::string(MakeModel(options, NoProgress).message()),
              testing::StartsWith(options.out + ": cannot create: "));
  options.out = note;
  EXPECT_EQ(MakeModel(options, NoProgress).code(), absl::StatusCode::kAlreadyExists);
}

TEST(CheckRoom, SaysHowMuchIsNeededInUnitsThatShowIt) {
  const auto refusal = [](int64_t rows) {  // there is no room in /proc
    return std::string(CheckRoom("/proc", {{{"a", DType::kF32, {rows, 1000}}}}).message());
  };
  EXPECT_EQ(refusal(9350), "/proc: the weights need 37.4 MB, the disk has 0.0 MB free");
  EXPECT_THAT(std::string(CheckRoom("/proc/not/there", {{{"a", DType::kF32, {9350, 1000}}}}).message()),
              HasSubstr("not/there: the weights need"));
  EXPECT_EQ(refusal(625000), "/proc: the weights need 2.5 GB, the disk has 0.0 GB free");
}

TEST(RandomTensor, PiecesAreTheWhole) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    const RandomTensor random(3, "name", dtype, 0.5f, 2.0f);
    std::vector<std::byte> whole(1003 * SizeOf(dtype)), pieces(whole.size());
    random.Fill(0, 1003, whole.data());
    for (int64_t begin = 0; begin < 1003; begin += 96) {
      random.Fill(begin, std::min<int64_t>(96, 1003 - begin), pieces.data() + begin * SizeOf(dtype));
    }
    EXPECT_EQ(whole, pieces);
  }
}

TEST(RandomTensor, IsNormal) {
  const RandomTensor random(3, "name", DType::kF32, 0.5f, 2.0f);
  std::vector<float> values(1 << 18);
  random.Fill(0, static_cast<int64_t>(values.size()), reinterpret_cast<std::byte*>(values.data()));
  double sum = 0, squares = 0, fourth = 0;
  for (const float value : values) {
    const double z = (value - 0.5) / 2.0;
    sum += z;
    squares += z * z;
    fourth += z * z * z * z;
  }
  const double count = static_cast<double>(values.size());
  EXPECT_NEAR(sum / count, 0.0, 0.01);
  EXPECT_NEAR(squares / count, 1.0, 0.01);
  EXPECT_NEAR(fourth / count, 3.0, 0.1);
}

}  // namespace
}  // namespace conclave

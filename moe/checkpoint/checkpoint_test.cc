#include "moe/checkpoint/checkpoint.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/checkpoint/make_model.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/checkpoint/safetensors.h"
#include "moe/checkpoint/safetensors_writer.h"
#include "moe/checkpoint/test_files.h"
#include "moe/tensor/dtype.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr char kDown[] = "model.layers.1.mlp.experts.3.down_proj.weight";

class CheckpointTest : public testing::Test {
 protected:
  std::string Make(const std::string& dtype, int64_t file_bytes_max = 4'000'000'000) {
    MakeModelOptions options;
    options.preset = "tiny";
    options.dtype = dtype;
    options.file_bytes_max = file_bytes_max;
    options.out = test_files::MakeDirectory("checkpoint");
    const absl::Status status = MakeModel(options, [](int64_t, int64_t) {});
    EXPECT_TRUE(status.ok()) << status;
    return options.out;
  }
  static std::unique_ptr<Checkpoint> Open(const std::string& directory) {
    auto checkpoint = Checkpoint::Open(directory);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return checkpoint.ok() ? *std::move(checkpoint) : nullptr;
  }
  static void ExpectRefused(const std::string& directory, absl::StatusCode code,
                            const std::vector<std::string>& words) {
    const auto checkpoint = Checkpoint::Open(directory);
    ASSERT_FALSE(checkpoint.ok()) << words[0];
    EXPECT_EQ(checkpoint.status().code(), code) << checkpoint.status();
    for (const std::string& word : words) EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr(word));
  }
  // Replaces text of the same length inside a file.
  static void Patch(const std::string& path, absl::string_view from, absl::string_view to) {
    ASSERT_EQ(from.size(), to.size());
    std::string bytes = test_files::ReadAll(path);
    const size_t at = bytes.find(std::string(from));
    ASSERT_NE(at, std::string::npos) << from;
    bytes.replace(at, to.size(), std::string(to));
    test_files::Write(path, bytes);
  }
};

TEST_F(CheckpointTest, OpensOneFileAndMany) {
  const auto whole = Open(Make("bf16"));
  const std::string fingerprint = whole->fingerprint();
  const std::vector<std::string> names = whole->TensorNames();
  const std::string directory = Make("bf16", 100'000);
  ASSERT_FALSE(fs::exists(directory + "/model.safetensors"));
  ASSERT_TRUE(fs::exists(directory + "/model.safetensors.index.json"));
  const auto split = Open(directory);
  EXPECT_EQ(split->TensorNames(), names);
  EXPECT_EQ(split->fingerprint(), fingerprint);  // how a model is cut into files is not part of it
  EXPECT_TRUE(split->CheckStillWhole().ok());
}

TEST_F(CheckpointTest, WeightsHaveShapeDtypeAndScales) {
  const auto bf16 = Open(Make("bf16"));
  const auto down = bf16->Weight(kDown, 64, 32);
  ASSERT_TRUE(down.ok()) << down.status();
  EXPECT_EQ(down->matrix.dtype, DType::kBF16);
  EXPECT_FALSE(down->has_scales());
  EXPECT_EQ(down->cols(), 32);
  const auto f8 = Open(Make("fp8"));
  const auto gate = f8->Weight("model.layers.0.mlp.gate_proj.weight", 160, 64);
  ASSERT_TRUE(gate.ok()) << gate.status();
  EXPECT_EQ(gate->matrix.dtype, DType::kF8E4M3);
  ASSERT_TRUE(gate->has_scales());
  EXPECT_EQ(gate->scales.rows, 2);
  EXPECT_EQ(gate->scales.cols, 1);
  EXPECT_EQ(gate->block_rows, 128);
  EXPECT_GT(gate->scales.Row<float>(0)[0], 0.0f);
  EXPECT_EQ(f8->Weight("model.layers.1.mlp.gate.weight", 16, 64)->matrix.dtype, DType::kBF16);
  const auto bias = f8->Vector("model.layers.1.mlp.gate.e_score_correction_bias", 16);
  ASSERT_TRUE(bias.ok());
  EXPECT_EQ(bias->size(), 16u);
}

TEST_F(CheckpointTest, ErrorsNameTheTensor) {
  const auto checkpoint = Open(Make("fp8"));
  EXPECT_EQ(checkpoint->Weight("nothing", 1, 1).status().code(), absl::StatusCode::kNotFound);
  const absl::Status shape = checkpoint->Weight(kDown, 32, 64).status();
  EXPECT_EQ(shape.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(shape.message()), HasSubstr(kDown));
  EXPECT_THAT(std::string(shape.message()), HasSubstr("[64, 32]"));
  EXPECT_EQ(checkpoint->Vector("model.norm.weight", 63).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(checkpoint->Vector(kDown, 64 * 32).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(CheckpointTest, AVectorWithAValueThatIsNotFiniteIsDamaged) {
  const char* const name = "model.layers.1.mlp.gate.e_score_correction_bias";
  const std::string directory = Make("bf16");
  std::vector<float> bias = *Open(directory)->Vector(name, 16);
  const auto bytes = [&bias] { return std::string(reinterpret_cast<const char*>(bias.data()), 16 * sizeof(float)); };
  for (const float value : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const std::string before = bytes();
    bias[3] = value;
    Patch(directory + "/model.safetensors", before, bytes());
    const absl::Status status = Open(directory)->Vector(name, 16).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << value;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_THAT(std::string(status.message()), HasSubstr(" at [3]"));
  }
}

TEST_F(CheckpointTest, MissingTensorsAndWrongShapesShowAtOpening) {
  std::string directory = Make("bf16");
  Patch(directory + "/model.safetensors", kDown, "model.layers.1.mlp.experts.3.down_proj.weighs");
  ExpectRefused(directory, absl::StatusCode::kNotFound, {kDown, directory});
  directory = Make("bf16");
  Patch(directory + "/config.json", "\"vocab_size\": 512", "\"vocab_size\": 511");
  ExpectRefused(directory, absl::StatusCode::kDataLoss, {"model.embed_tokens.weight", "[512, 64]", "[511, 64]"});
  directory = Make("fp8");
  Patch(directory + "/config.json", "quantization_config", "quantization_konfig");
  const absl::Status f8 = Open(directory)->Weight(kDown, 64, 32).status();
  EXPECT_EQ(f8.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(f8.message()), HasSubstr("no quantization_config"));
}

TEST_F(CheckpointTest, MissingScalesAreNamed) {
  const std::string directory = Make("fp8");
  Patch(directory + "/model.safetensors", absl::StrCat(kDown, "_scale_inv"), absl::StrCat(kDown, "_scale_imv"));
  const absl::Status status = Open(directory)->Weight(kDown, 64, 32).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("down_proj.weight_scale_inv"));
}

TEST_F(CheckpointTest, ScalesMayBeExponents) {
  const std::string directory = Make("fp8");
  const std::string path = directory + "/model.safetensors";
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok());
  std::vector<SafetensorsArray> arrays;
  const uint8_t exponent = 120;
  for (const auto& [name, tensor] : (*file)->tensors()) {
    const bool scales = name == absl::StrCat(kDown, "_scale_inv");
    arrays.push_back({name, scales ? DType::kF8E8M0 : tensor.dtype, tensor.shape,
                      scales ? static_cast<const void*>(&exponent) : tensor.data});
  }
  ASSERT_TRUE(WriteSafetensors(path, arrays).ok());
  const auto weight = Open(directory)->Weight(kDown, 64, 32);
  ASSERT_TRUE(weight.ok()) << weight.status();
  EXPECT_EQ(weight->scales.dtype, DType::kF8E8M0);
}

TEST_F(CheckpointTest, TheIndexMustAgreeWithTheFiles) {
  const std::string directory = Make("bf16", 100'000);
  const std::string index_path = directory + "/model.safetensors.index.json";
  const std::string index = test_files::ReadAll(index_path);
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().filename().string());
  }
  ASSERT_GE(files.size(), 3u);
  const auto with_index = [&](absl::string_view from, absl::string_view to) {
    test_files::Write(index_path, absl::StrReplaceAll(index, {{from, to}}));
  };
  with_index(files[0], "../" + files[0]);
  ExpectRefused(directory, absl::StatusCode::kDataLoss, {index_path, "without '/' and '..'"});
  with_index(files[0], "sub/" + files[0]);
  ExpectRefused(directory, absl::StatusCode::kDataLoss, {"without '/' and '..'"});
  with_index(files[0], "config.json");
  ExpectRefused(directory, absl::StatusCode::kDataLoss, {".safetensors file"});
  with_index(files[0], files[1]);
  ExpectRefused(directory, absl::StatusCode::kDataLoss, {"which does not hold it", files[1]});
  with_index("weight_map", "weight_mop");
  ExpectRefused(directory, absl::StatusCode::kDataLoss, {"weight_map"});
  with_index("\"lm_head.weight\"", "\"model.norm.weight\"");
  ExpectRefused(directory, absl::StatusCode::kDataLoss, {"model.norm.weight", "twice"});
  with_index("}", "");
  ExpectRefused(directory, absl::StatusCode::kDataLoss, {"not valid JSON"});
  test_files::Write(index_path, index);
  fs::remove(directory + "/" + files[2]);
  ExpectRefused(directory, absl::StatusCode::kNotFound, {files[2], "is missing"});
}

TEST_F(CheckpointTest, OtherFormatsAreRefusedByName) {
  const std::string directory = test_files::MakeDirectory("formats");
  ExpectRefused(directory + "/absent", absl::StatusCode::kNotFound, {"no such model directory"});
  ExpectRefused(directory, absl::StatusCode::kNotFound, {"no weights"});
  test_files::Write(directory + "/pytorch_model.bin", "x");
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {"PyTorch", "pytorch_model.bin"});
  test_files::Write(directory + "/part.safetensors", "x");
  ExpectRefused(directory, absl::StatusCode::kNotFound, {"part.safetensors", "index"});
  test_files::Write(directory + "/model-Q4_K_M.gguf", "GGUF\3");
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {"GGUF", "model-Q4_K_M.gguf"});
  ExpectRefused(directory + "/model-Q4_K_M.gguf", absl::StatusCode::kInvalidArgument, {"GGUF"});
  test_files::Write(directory + "/renamed", "GGUF\3");
  ExpectRefused(directory + "/renamed", absl::StatusCode::kInvalidArgument, {"GGUF"});
  ExpectRefused(directory + "/part.safetensors", absl::StatusCode::kInvalidArgument, {"give the model's directory"});
  test_files::Write(directory + "/model.safetensors", "x");
  ExpectRefused(directory, absl::StatusCode::kNotFound, {"config.json"});
  test_files::Write(directory + "/config.json", "{}");
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {directory, "model_type"});
  test_files::Write(directory + "/hf_quant_config.json", "{}");
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {"NVFP4"});
}

TEST_F(CheckpointTest, TruncationWhileServingIsDataLossThatNamesTheFile) {
  const std::string directory = Make("bf16", 100'000);
  const auto checkpoint = Open(directory);
  const auto embedding = checkpoint->Weight("model.embed_tokens.weight", 512, 64);
  ASSERT_TRUE(embedding.ok());
  const std::string path = checkpoint->Describe("model.embed_tokens.weight")->file->path();
  ASSERT_EQ(truncate(path.c_str(), 100), 0);
  EXPECT_EQ(LoadAsFloat(embedding->matrix.data, DType::kBF16, 511 * 64), 0.0f);  // no SIGBUS
  const absl::Status status = checkpoint->CheckStillWhole();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_EQ(checkpoint->Load(*embedding).code(), absl::StatusCode::kDataLoss);
}

TEST_F(CheckpointTest, MisalignedTensorsAreCopiedToAlignedMemory) {
  const std::string directory = Make("f32");
  const std::string path = directory + "/model.safetensors";
  std::string bytes = test_files::ReadAll(path);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  const auto before = Open(directory)->Vector("model.norm.weight", 64);
  // One more space behind the JSON moves all data by a byte, which the format allows.
  test_files::Write(path, test_files::RawSafetensors(bytes.substr(8, length) + " ", bytes.substr(8 + length)));
  const auto checkpoint = Open(directory);
  EXPECT_EQ(*checkpoint->Vector("model.norm.weight", 64), *before);
  const auto weight = checkpoint->Weight(kDown, 64, 32);
  ASSERT_TRUE(weight.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(weight->matrix.data) % sizeof(float), 0u);
  EXPECT_EQ(checkpoint->Weight(kDown, 64, 32)->matrix.data, weight->matrix.data);
  const SafetensorsTensor stored = *checkpoint->Tensor(kDown);
  EXPECT_EQ(std::memcmp(weight->matrix.data, stored.data, static_cast<size_t>(stored.bytes)), 0);
  checkpoint->Evict(*weight);
  EXPECT_TRUE(checkpoint->Load(*weight).ok());
}

TEST_F(CheckpointTest, FingerprintsTellModelsApart) {
  const std::string one = Open(Make("bf16"))->fingerprint();
  EXPECT_EQ(one.size(), 32u);
  EXPECT_EQ(Open(Make("bf16"))->fingerprint(), one);
  EXPECT_NE(Open(Make("fp8"))->fingerprint(), one);
  MakeModelOptions options;
  options.preset = "tiny";
  options.seed = 1;  // the same shape, other weights
  options.out = test_files::MakeDirectory("other_seed");
  ASSERT_TRUE(MakeModel(options, [](int64_t, int64_t) {}).ok());
  EXPECT_NE(Open(options.out)->fingerprint(), one);
}

// Sums the address ranges that map `path`, from /proc/self/maps.
int64_t MappedBytesOf(const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  int64_t bytes = 0;
  for (std::string line; std::getline(maps, line);) {
    if (!absl::EndsWith(line, path)) continue;
    bytes += static_cast<int64_t>(std::stoull(line.substr(line.find('-') + 1), nullptr, 16) -
                                  std::stoull(line, nullptr, 16));
  }
  return bytes;
}

TEST_F(CheckpointTest, OnlyTensorsAskedForAreMappedAndResident) {
  MakeModelOptions options;
  const std::string config = test_files::MakeDirectory("quarter_config") + "/config.json";
  ModelSpec spec = *PresetSpec("tiny");
  std::string text = test_files::ReadAll(Make("bf16") + "/config.json");
  text = absl::StrReplaceAll(text, {{"\"hidden_size\": 64", "\"hidden_size\": 512"},
                                    {"\"moe_intermediate_size\": 32", "\"moe_intermediate_size\": 512"}});
  test_files::Write(config, text);
  options.config_file = config;
  options.out = test_files::MakeDirectory("quarter");
  ASSERT_TRUE(MakeModel(options, [](int64_t, int64_t) {}).ok());
  const auto checkpoint = Open(options.out);
  const std::string path = options.out + "/model.safetensors";
  EXPECT_EQ(MappedBytesOf(path), 0);

  const int64_t resident_before = test_files::ResidentFileBytes();
  int64_t wanted = 0;
  std::vector<WeightView> views;
  for (int layer = spec.dense_layers_first; layer < spec.layers; ++layer) {
    for (int expert = 0; expert < spec.gate.experts; expert += 4) {  // scattered: the worst for read-ahead
      const auto view = checkpoint->Weight(
          absl::StrCat("model.layers.", layer, ".mlp.experts.", expert, ".up_proj.weight"), 512, 512);
      ASSERT_TRUE(view.ok()) << view.status();
      wanted += 512 * 512 * 2;
      float sum = 0;
      for (int64_t i = 0; i < 512 * 512; i += 64) sum += LoadAsFloat(view->matrix.data, view->matrix.dtype, i);
      ASSERT_TRUE(std::isfinite(sum));
      views.push_back(*view);
    }
  }
  const int64_t slack = static_cast<int64_t>(views.size()) * 8192;
  EXPECT_LE(MappedBytesOf(path), wanted + slack);
  EXPECT_LE(test_files::ResidentFileBytes() - resident_before, wanted + slack + (1 << 20));
  for (const WeightView& view : views) checkpoint->Evict(view);
  EXPECT_LE(test_files::ResidentFileBytes() - resident_before, slack + (1 << 20));
}

TEST_F(CheckpointTest, OpensEveryModelThatIsAround) {
  const std::vector<std::string> directories = test_files::ModelDirectories(std::getenv("CONCLAVE_SHARED_DIR"));
  if (directories.empty()) GTEST_SKIP() << "no models: neither //models:demo nor CONCLAVE_SHARED_DIR";
  for (const std::string& directory : directories) {
    SCOPED_TRACE(directory);
    const auto checkpoint = Open(directory);
    ASSERT_NE(checkpoint, nullptr);
    const ModelSpec& spec = checkpoint->spec();
    const std::string last = absl::StrCat("model.layers.", spec.layers - 1, ".mlp.experts.", spec.gate.experts - 1);
    const auto weight = checkpoint->Weight(last + ".down_proj.weight", spec.hidden, spec.moe_intermediate);
    ASSERT_TRUE(weight.ok()) << weight.status();
    EXPECT_EQ(weight->has_scales(), spec.block_quant.present());
    const auto norm = checkpoint->Vector("model.norm.weight", spec.hidden);
    ASSERT_TRUE(norm.ok());
    for (const float value : *norm) EXPECT_TRUE(std::isfinite(value));
  }
}

}  // namespace
}  // namespace conclave

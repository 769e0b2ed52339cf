#include "moe/checkpoint/model_dir.h"

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/checkpoint/model_file.h"
#include "moe/checkpoint/test_files.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

constexpr char kCommit[] = "0123456789abcdef0123456789abcdef01234567";

class ModelDirTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = test_files::MakeDirectory("hub_test");
    environment_.hf_home = root_;
    model_ = root_ + "/hub/models--org--name";
    snapshot_ = model_ + "/snapshots/" + kCommit;
    fs::create_directories(snapshot_);
    fs::create_directories(model_ + "/refs/refs/pr");
    fs::create_directories(model_ + "/blobs");
    test_files::Write(model_ + "/refs/main", kCommit);
    test_files::Write(model_ + "/refs/v1.0", kCommit);
    test_files::Write(model_ + "/refs/refs/pr/1", kCommit);
    Blob("config.json", "{}");
    Blob("model.safetensors", "x");
  }
  // A file as the cache keeps it: a blob, and a link to it in the snapshot.
  void Blob(const std::string& name, const std::string& text) {
    test_files::Write(model_ + "/blobs/blob-of-" + name, text);
    fs::create_symlink("../../blobs/blob-of-" + name, snapshot_ + "/" + name);
  }
  std::string Error(const std::string& model) {
    const auto directory = ResolveModelDir(model, environment_);
    EXPECT_EQ(directory.status().code(), absl::StatusCode::kNotFound) << directory.status();
    return std::string(directory.status().message());
  }

  std::string root_, model_, snapshot_;
  HubEnvironment environment_;
};

TEST_F(ModelDirTest, AnExistingPathIsTakenAsItIs) {
  EXPECT_EQ(*ResolveModelDir(root_, {}), root_);
  EXPECT_EQ(*ResolveModelDir(snapshot_ + "/model.safetensors", {}), snapshot_ + "/model.safetensors");
}

TEST_F(ModelDirTest, FindsBranchesTagsAndCommits) {
  EXPECT_EQ(*ResolveModelDir("org/name", environment_), snapshot_);
  for (const char* revision : {"main", "v1.0", "refs/pr/1", kCommit}) {
    const auto directory = ResolveModelDir(std::string("org/name@") + revision, environment_);
    ASSERT_TRUE(directory.ok()) << directory.status();
    EXPECT_EQ(*directory, snapshot_);
  }
}

TEST_F(ModelDirTest, TheCacheIsWhereHuggingFacePutsIt) {
  EXPECT_EQ(HubCacheFolder({"/cache", "/hf", "/home"}), "/cache");
  EXPECT_EQ(HubCacheFolder({"", "/hf", "/home"}), "/hf/hub");
  EXPECT_EQ(HubCacheFolder({"", "", "/home"}), "/home/.cache/huggingface/hub");
  EXPECT_EQ(HubCacheFolder({}), "");
}

TEST_F(ModelDirTest, AnAbsentModelPrintsItsDownload) {
  const std::string error = Error("deepseek-ai/DeepSeek-V2-Lite@main");
  EXPECT_THAT(error, HasSubstr("`hf download deepseek-ai/DeepSeek-V2-Lite --revision main`"));
  EXPECT_THAT(error, HasSubstr(root_ + "/hub/models--deepseek-ai--DeepSeek-V2-Lite"));
  EXPECT_THAT(error, HasSubstr("size about 31.4 GB, free disk there "));
  EXPECT_THAT(error, Not(HasSubstr("free disk there unknown")));
  EXPECT_THAT(Error("some/other"), HasSubstr("size not known here"));
}

TEST_F(ModelDirTest, AnAbsentRevisionListsThoseThatAreThere) {
  const std::string error = Error("org/name@v2");
  EXPECT_THAT(error, HasSubstr("--revision v2"));
  EXPECT_THAT(error, HasSubstr(std::string("@") + kCommit));
}

TEST_F(ModelDirTest, AnIncompleteSnapshotSaysWhatIsMissing) {
  fs::remove(snapshot_ + "/model.safetensors");
  Blob("model.safetensors.index.json",
       R"({"metadata":{"total_size":5000000000},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})");
  Blob("m-1.safetensors", "x");
  EXPECT_THAT(Error("org/name"), HasSubstr("1 of 2 weight files are missing"));
  EXPECT_THAT(Error("org/name"), HasSubstr("about 5.0 GB"));
  fs::remove(snapshot_ + "/config.json");
  EXPECT_THAT(Error("org/name"), HasSubstr("config.json is missing"));
}

TEST_F(ModelDirTest, NamesThatAreNeitherAreRefused) {
  for (const char* model : {"/no/such/directory", "name", "a/b/c", "../up", "org/..", "org/na--me", "org/name@../../x",
                            "org/name@", "or g/name", ".org/name"}) {
    EXPECT_THAT(Error(model), HasSubstr("no such model directory")) << model;
  }
  EXPECT_EQ(ResolveModelDir("", environment_).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ResolveModelDir("org/name", {}).status().message()), HasSubstr("HF_HOME"));
}

TEST_F(ModelDirTest, LinksIntoTheModelsOwnCacheFolderAreFollowed) {
  const auto path = ResolveModelFile(snapshot_, "config.json");
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_THAT(*path, HasSubstr("/models--org--name/blobs/"));
  EXPECT_EQ(*ReadModelFile(snapshot_, "config.json", 10), "{}");
  EXPECT_EQ(ReadModelFile(snapshot_, "config.json", 1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ModelDirTest, LinksIntoAMountsDataAreFollowed) {
  const std::string mount = root_ + "/mount";
  fs::create_directories(mount + "/..2026_11_23/sub");
  test_files::Write(mount + "/..2026_11_23/config.json", "mounted");
  fs::create_symlink("..2026_11_23", mount + "/..data");
  fs::create_symlink("..data/config.json", mount + "/config.json");
  EXPECT_EQ(*ReadModelFile(mount, "config.json", 100), "mounted");
  EXPECT_EQ(*ReadModelFile(mount + "/..data", "config.json", 100), "mounted");
}

TEST_F(ModelDirTest, LinksElsewhereAreRefused) {
  const std::string directory = root_ + "/plain";
  fs::create_directories(directory);
  test_files::Write(root_ + "/secret", "secret");
  fs::create_symlink("../secret", directory + "/config.json");
  fs::create_symlink(model_ + "/blobs/blob-of-config.json", directory + "/tokenizer.json");
  fs::create_symlink("loop", directory + "/loop");
  fs::create_symlink("gone", directory + "/dangling");
  for (const char* name : {"config.json", "tokenizer.json"}) {
    const auto path = ResolveModelFile(directory, name);
    EXPECT_EQ(path.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(path.status().message()), HasSubstr("outside the model directory"));
  }
  EXPECT_EQ(ResolveModelFile(directory, "loop").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ResolveModelFile(directory, "dangling").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(ModelFileExists(directory, "dangling"));
  // Out of a snapshot, into another model of the same cache.
  fs::create_directories(root_ + "/hub/models--org--other/blobs");
  test_files::Write(root_ + "/hub/models--org--other/blobs/x", "x");
  fs::create_symlink(root_ + "/hub/models--org--other/blobs/x", snapshot_ + "/tokenizer.json");
  EXPECT_EQ(ResolveModelFile(snapshot_, "tokenizer.json").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ModelDirTest, OnlyPlainNamesAreLookedUp) {
  for (const char* name : {"", ".", "..", "../secret", "/etc/passwd", "a/b"}) {
    EXPECT_EQ(ResolveModelFile(root_, name).status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_FALSE(ModelFileExists(root_, name)) << name;
  }
  // A link as the directory itself is the user's own choice.
  fs::create_directory_symlink(snapshot_, root_ + "/current");
  EXPECT_EQ(*ReadModelFile(root_ + "/current", "config.json", 10), "{}");
}

}  // namespace
}  // namespace conclave

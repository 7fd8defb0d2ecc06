class SaveImage:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True

    def save(self):
        return ()


class Fine(SaveImage):
    pass


class NoFunction(SaveImage):
    FUNCTION = "is_not_there"


class BrokenTypes(SaveImage):
    @classmethod
    def INPUT_TYPES(cls):
        raise FileNotFoundError("/models/of/somebody")


NODE_CLASS_MAPPINGS = {
    "SaveImage": SaveImage,
    "TakesCoreIds_Fine": Fine,
    "TakesCoreIds_NoFunction": NoFunction,
    "TakesCoreIds_BrokenTypes": BrokenTypes,
}
